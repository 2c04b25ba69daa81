"""`ddp`: what `no_acc` does over several processes, by its name and with evidence of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from acpt_trainer.errors import Problem
from acpt_trainer.strategies.base import Layer, Status, StrategyStatus, TrainingContext
from acpt_trainer.strategies.eager import EagerStrategy

if TYPE_CHECKING:
    from torch import nn


class DdpStrategy(EagerStrategy):
    """PyTorch's DistributedDataParallel: each process has the model, gradients are averaged."""

    name: ClassVar[str] = "ddp"
    layer: ClassVar[Layer] = Layer.ENGINE
    description: ClassVar[str] = "DDP averages the gradients of several processes"
    conflicts: ClassVar[dict[str, str]] = {
        "ds": "both own the distribution",
        "fsdp": "both own the distribution",
    }

    def __init__(self) -> None:
        super().__init__()
        self._reductions: _Reductions | None = None

    def problems(self, context: TrainingContext) -> list[Problem]:
        """There is nothing to average on one process."""
        found = super().problems(context)
        if context.world_size < 2:
            found.append(
                Problem(
                    f"strategy {self.label!r} averages gradients over processes, and there is one",
                    "the launch command",
                    "torchrun --nproc_per_node 2 ..., or use strategy='no_acc'",
                )
            )
        return found

    def prepared(self, accelerator: Any, model: nn.Module) -> None:
        """Counts what DDP reduces from now on."""
        super().prepared(accelerator, model)
        self._reductions = None
        if hasattr(model, "register_comm_hook"):
            self._reductions = _Reductions(model)

    def status(self) -> StrategyStatus:
        """Engaged when the gradients of several processes were averaged."""
        status = super().status()
        if status.status is not Status.ENGAGED:
            return status
        if self._reductions is None:
            return StrategyStatus.fell_back(
                f"the prepared model is a {status.evidence['model']}, not a "
                "DistributedDataParallel",
                status.evidence,
            )
        evidence = {**status.evidence, **self._reductions.counts}
        if not self._reductions.counts["all_reduces"]:
            return StrategyStatus(Status.PENDING, evidence, "no gradient was reduced yet")
        return StrategyStatus.engaged(evidence)


class _Reductions:
    """The reduction that DDP makes by itself, counted.

    A script that has set a reduction of its own keeps it, and it is named instead of counted.
    """

    def __init__(self, model: Any) -> None:
        group = model.process_group
        self.counts: dict[str, Any] = {"backend": group.name(), "processes": group.size()}
        self.counts |= {"all_reduces": 0, "bytes_reduced": 0}
        theirs = [hook.__qualname__ for hook, _ in model._comm_hooks]
        if theirs:
            self.counts |= {"all_reduces": f"by the script's own {theirs[0]}"}
            del self.counts["bytes_reduced"]
        else:
            # DDP reads annotations, and wants the class itself there, not its name.
            model.register_comm_hook(group, lambda group, bucket: self._reduce(group, bucket))

    def _reduce(self, group: Any, bucket: Any) -> Any:
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

        gradients = bucket.buffer()
        self.counts["all_reduces"] += 1
        self.counts["bytes_reduced"] += gradients.numel() * gradients.element_size()
        return allreduce_hook(group, bucket)
