"""`ort`: the forward and backward pass in ONNX Runtime training, on the plain model in place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from acpt_trainer.errors import NotEngagedError, Problem
from acpt_trainer.requirements import Requirement
from acpt_trainer.strategies import ort_recompute
from acpt_trainer.strategies.base import (
    AcceleratorStrategy,
    Layer,
    Status,
    StrategyStatus,
    TrainingContext,
)
from acpt_trainer.strategies.ort_checks import (
    argument_problems,
    fallback_problems,
    model_problems,
    runtime_problems,
)

if TYPE_CHECKING:
    from torch import nn

    from acpt_trainer.ort.forward import OrtForward


class OrtStrategy(AcceleratorStrategy):
    """ONNX Runtime training.

    Args:
        max_graphs: How many training graphs may be exported before training stops. A graph is
            exported for each set of argument names, types and ranks; shapes are dynamic.
        cache: Whether exported graphs are kept between runs, or the folder to keep them in
            instead of the user's.
        recompute: Whether activations are computed again instead of being kept: 0 for no, 1 for
            what each layer can repeat whole, 2 for what it can repeat in part as well. None does
            as the model's gradient checkpointing (or `ORTMODULE_MEMORY_OPT_LEVEL`) says.
    """

    name: ClassVar[str] = "ort"
    layer: ClassVar[Layer] = Layer.MODULE
    description: ClassVar[str] = "forward and backward in ONNX Runtime training (ORTModule)"
    requires: ClassVar[tuple[Requirement, ...]] = (
        Requirement(
            "onnxruntime.training", ("onnxruntime-training-cpu", "onnxruntime-training"), "ort"
        ),
        Requirement("onnx", ("onnx",), "ort"),
    )
    conflicts: ClassVar[dict[str, str]] = {
        "compile": "both swap the model's forward pass",
        "ds_compile": "both swap the model's forward pass",
        "fsdp": "ORTModule needs whole parameters, and FSDP shards them",
    }

    def __init__(
        self,
        max_graphs: int = 8,
        cache: bool | str | os.PathLike[str] = True,
        recompute: int | None = None,
    ) -> None:
        self.max_graphs = max_graphs
        self.cache = cache
        self.recompute = recompute
        self._forward: OrtForward | None = None
        self._last: StrategyStatus | None = None

    def options(self) -> dict[str, Any]:
        """The options that it was built with."""
        cache = self.cache if isinstance(self.cache, bool) else str(self.cache)
        return {"max_graphs": self.max_graphs, "cache": cache, "recompute": self.recompute}

    def precisions(self, device: str) -> tuple[str, ...]:
        """Half precision on CUDA only: ONNX Runtime lacks the kernels for it on a CPU.

        No operator has a bfloat16 kernel there, and some have no float16 one: under autocast in
        float16 a Llama runs its forward and stops in its backward (`SplitTraining`).
        """
        return ("fp16", "fp32") if device == "cuda" else ("fp32",)

    def problems(self, context: TrainingContext) -> list[Problem]:
        """What ORTModule cannot run, refused by name before anything is trained."""
        found = super().problems(context)
        if (
            isinstance(self.max_graphs, bool)
            or not isinstance(self.max_graphs, int)
            or self.max_graphs < 1
        ):
            found.append(
                Problem(
                    f"max_graphs is {self.max_graphs!r}", "options of 'ort'", "give an int >= 1"
                )
            )
        if not isinstance(self.cache, (bool, str, os.PathLike)) or self.cache == "":
            found.append(
                Problem(
                    f"cache is {self.cache!r}", "options of 'ort'", "give True, False or a folder"
                )
            )
        found += fallback_problems() + runtime_problems()
        if context.device == "cuda":
            from acpt_trainer.ort import cuda

            found += cuda.problems()
        found += ort_recompute.option_problems(self.recompute)
        if context.args is not None:
            found += argument_problems(context.args)
            found += ort_recompute.argument_problems(context.args, self.recompute)
        if context.model is not None:
            from acpt_trainer.ort.precision import weight_problems

            found += model_problems(context.model) + weight_problems(context.model)
            found += ort_recompute.model_problems(context.model, self.recompute)
        return found

    def wrap_model(self, model: nn.Module) -> nn.Module:
        """Replaces `model.forward`; the model object stays what it is."""
        from acpt_trainer.ort import selfcheck
        from acpt_trainer.ort.cache import ExportCache
        from acpt_trainer.ort.forward import OrtForward, attach

        selfcheck.require()
        if isinstance(model.__dict__.get("forward"), OrtForward):
            self._forward = model.__dict__["forward"]
        else:
            folder = None if self.cache is True else self.cache
            cache = ExportCache(folder) if folder is not False else None
            self._forward = attach(model, self.max_graphs, cache, self.recompute)
        self._last = None
        return model

    def status(self) -> StrategyStatus:
        """Engaged when ONNX Runtime ran a forward and a backward pass."""
        if self._last is not None:
            return self._last
        forward = self._forward
        if forward is None:
            return StrategyStatus.pending("the model is not prepared for training yet")
        evidence = self._evidence(forward)
        if forward.released:
            return StrategyStatus.fell_back(
                "another user of the model took ONNX Runtime off it", evidence
            )
        if forward.calls and forward.backward_calls:
            return StrategyStatus.engaged(evidence)
        missing = "backward" if forward.calls else "forward"
        return StrategyStatus(
            Status.PENDING,
            evidence,
            f"ONNX Runtime ran no {missing} pass of {type(forward.model).__name__} yet; a loss "
            "that calls parts of the model instead of the model itself goes past it, and so does "
            "a model in eval mode (call model.train())",
        )

    def _evidence(self, forward: OrtForward) -> dict[str, Any]:
        from acpt_trainer.ort import patches

        graphs = list(forward.graphs.values())
        evidence: dict[str, Any] = {
            "grad_fn": forward.grad_fn,
            "forward_calls": forward.calls,
            "graphs": len(graphs),
            "graphs_limit": self.max_graphs,
            "re_exports": list(forward.re_exports),
            "patches": list(patches.active()),
        }
        if graphs and graphs[-1].summary is not None:
            evidence |= graphs[-1].summary.to_dict()
            evidence["export_seconds"] = sum(g.summary.export_seconds for g in graphs if g.summary)
            evidence["shape_guards"] = sum(len(g.call.record.guards) for g in graphs)
            evidence["checks_made_once"] = sorted({c for g in graphs for c in g.call.record.checks})
            evidence["build_seconds"] = sum(g.summary.build_seconds for g in graphs if g.summary)
            evidence["cache"] = ", ".join(g.cache_use for g in graphs)
            if graphs[-1].recompute is not None:
                evidence["recompute"] = graphs[-1].recompute.to_dict()
        return evidence

    def write_graph(self, folder: str | os.PathLike[str]) -> dict[str, Any]:
        """Writes the newest training graph as `training_graph.onnx`, `.json` and `.md`.

        Args:
            folder: Where to write; files of the same names are replaced.

        Returns:
            What `training_graph.json` holds.

        Raises:
            NotEngagedError: If ONNX Runtime built no graph yet.
        """
        if self._forward is None:
            raise NotEngagedError(
                "There is no training graph: the model is not prepared for training, or training "
                "has ended.\n    where: OrtStrategy.write_graph\n"
                "    fix:   call it after a training step and before the strategy is closed"
            )
        from acpt_trainer.ort.write import write_graph

        return write_graph(self._forward, Path(folder))

    def close(self) -> None:
        """Gives the model its own forward back, frees the graphs and undoes the patches."""
        if self._forward is not None:
            self._last = self.status()
            self._forward.release()
            self._forward = None
