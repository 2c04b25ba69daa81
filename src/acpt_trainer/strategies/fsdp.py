"""`fsdp`: PyTorch's FSDP2, where each process keeps a share of parameters, gradients and state."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, ClassVar

from acpt_trainer.errors import Problem
from acpt_trainer.launch import show_fsdp_to_accelerate
from acpt_trainer.strategies.base import (
    AcceleratorStrategy,
    Layer,
    Status,
    StrategyStatus,
    TrainingContext,
)

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainingArguments


_ENDS = ("get_input_embeddings", "get_output_embeddings")


class FsdpStrategy(AcceleratorStrategy):
    """Fully sharded data parallelism, by `fully_shard` through Accelerate.

    The model itself is sharded and stays so after training: evaluate, generate and save with all
    processes together.

    Args:
        reshard_after_forward: Whether a block's parameters are given up after its forward pass and
            gathered again for the backward pass: less memory, more communication.

    Source:
        Zhao et al., 2023, https://arxiv.org/abs/2304.11277.
    """

    name: ClassVar[str] = "fsdp"
    layer: ClassVar[Layer] = Layer.ENGINE
    description: ClassVar[str] = "FSDP2: each process keeps a share of all that is trained"
    conflicts: ClassVar[dict[str, str]] = {
        "ds": "both own the optimizer and the distribution",
        "ddp": "both own the distribution",
        "ort": "ORTModule needs whole parameters, and FSDP shards them",
        "compile": "FSDP changes the classes of the blocks after they are compiled",
    }
    checkpoint_format = "fsdp"

    def __init__(self, reshard_after_forward: bool = True) -> None:
        self.reshard_after_forward = reshard_after_forward
        self._precision: str | None = None
        self._model: Any = None
        self._without_ends: Any = None
        self._counts: dict[str, int] = {}
        self._last: StrategyStatus | None = None

    def options(self) -> dict[str, Any]:
        """The options that it was built with."""
        return {"reshard_after_forward": self.reshard_after_forward}

    def precisions(self, device: str) -> tuple[str, ...]:
        """Parameters are cast for computing; float16 would need a scaler of its own."""
        return ("bf16", "fp32")

    # --- before training -------------------------------------------------------------------------

    def problems(self, context: TrainingContext) -> list[Problem]:
        """There is nothing to shard over on one process, and one place says how to."""
        found = super().problems(context)
        self._precision = context.precision
        if context.world_size < 2:
            found.append(
                Problem(
                    f"strategy {self.label!r} shards over processes, and there is one",
                    "the launch command",
                    "torchrun --nproc_per_node 2 ..., or use strategy='no_acc'",
                )
            )
        if context.model is not None:
            from acpt_trainer.strategies.blocks import shared_weight

            shared = shared_weight(context.model)
            if shared is not None:
                found.append(
                    Problem(
                        f"strategy {self.label!r} shards block by block, and blocks share weights",
                        f"{type(context.model).__name__}.{shared}",
                        "use strategy='ds', which shares the optimizer's state, or 'ddp'",
                    )
                )
        return found

    def _plugin_arguments(self) -> dict[str, Any]:
        computes: dict[str, Any] = {}
        if self._precision == "bf16":
            import torch
            from torch.distributed.fsdp import MixedPrecisionPolicy

            # Accelerate's own policy adds the processes' gradients up in bf16, and rounds the
            # loss to it.
            policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
            computes = {"mixed_precision_policy": policy}
        return computes | {
            "fsdp_version": 2,
            "auto_wrap_policy": "transformer_based_wrap",
            "state_dict_type": "FULL_STATE_DICT",  # checkpoints hold the plain model
            "cpu_ram_efficient_loading": False,
            "reshard_after_forward": self.reshard_after_forward,
        }

    def configure(self, args: TrainingArguments) -> None:
        """Puts the plugin where `TrainingArguments(fsdp=...)` would have put it."""
        args.fsdp_plugin_args = self._plugin_arguments()
        show_fsdp_to_accelerate(args.fsdp_plugin_args, args.mixed_precision)

    def accelerator_kwargs(self, context: TrainingContext) -> dict[str, Any]:
        """The plugin for a script without a Trainer."""
        from accelerate.utils import FullyShardedDataParallelPlugin

        arguments = self._plugin_arguments()
        show_fsdp_to_accelerate(arguments, "no" if context.precision == "fp32" else "bf16")
        return {"fsdp_plugin": FullyShardedDataParallelPlugin(**arguments)}

    def wrap_model(self, model: nn.Module) -> nn.Module:
        """Says what is a unit of its own; Accelerate shards the model later.

        Not the model's `_no_split_modules`: they are of loading, lack in some models, and hold
        the embedding in others, which Accelerate then shards twice, and fails.
        """
        from accelerate.state import AcceleratorState

        from acpt_trainer.strategies.blocks import ends_are_shared, repeated_blocks

        self._last = None
        plugin = AcceleratorState._shared_state.get("fsdp_plugin")
        if plugin is not None:
            # What has no parts, such as a linear layer, is found outside the blocks as well.
            names = {type(b).__name__ for b in repeated_blocks(model) if any(b.children())}
            plugin.transformer_cls_names_to_wrap = sorted(names)
        if ends_are_shared(model):
            # A unit of input and output alone would leave others without the weight.
            self._without_ends = model
            for name in _ENDS:
                vars(model)[name] = lambda: None
        return model

    # --- evidence --------------------------------------------------------------------------------

    def prepared(self, accelerator: Any, model: nn.Module) -> None:
        """Counts what is reduced from now on, and lets the model keep its name."""
        self._give_ends_back()
        self._model = model
        self._counts = {"reduce_scatters": 0, "bytes_reduced": 0}
        if not hasattr(model, "set_custom_reduce_scatter"):
            return
        for module in model.modules():
            if hasattr(module, "set_custom_reduce_scatter"):
                module.set_custom_reduce_scatter(_counted(self._counts))
        _returns_fp32(model)
        # FSDP2 makes a class FSDP<name>, and Trainer's label smoothing tells by the name of the
        # class whether labels are to be shifted: it would train and evaluate on others, in silence.
        name = model._get_name().removeprefix("FSDP")
        model._get_name = functools.partial(str, name)  # type: ignore[method-assign]

    def _give_ends_back(self) -> None:
        for name in _ENDS if self._without_ends is not None else ():
            vars(self._without_ends).pop(name, None)
        self._without_ends = None

    def status(self) -> StrategyStatus:
        """Engaged when the parameters are sharded and gradients were reduced to their shards."""
        if self._last is not None:
            return self._last
        if self._model is None:
            return StrategyStatus.pending("the model is not prepared for training yet")
        evidence = {**_shards(self._model), **self._counts}
        if not evidence["sharded_parameters"]:
            return StrategyStatus.fell_back(
                f"the prepared model is a {type(self._model).__name__} without sharded parameters",
                evidence,
            )
        if evidence["precision"] != (self._precision or evidence["precision"]):
            return StrategyStatus.fell_back(
                f"{self._precision} was asked for and FSDP computes in {evidence['precision']}",
                evidence,
            )
        if not self._counts["reduce_scatters"]:
            return StrategyStatus(Status.PENDING, evidence, "no gradient was reduced yet")
        return StrategyStatus.engaged(evidence)

    def close(self) -> None:
        """Lets go of the model, which stays sharded and keeps its name for evaluation."""
        self._give_ends_back()
        if self._model is not None:
            self._last = self.status()
            self._model = None


def _returns_fp32(model: Any) -> None:
    """Has the whole model, not its units, return fp32 where it computes in bf16.

    So does autocast: a loss or a score that is made from the outputs is then not made in bf16.
    """
    import torch

    unit = model._get_fsdp_state()
    if unit._mp_policy.param_dtype is not None:
        unit._mp_policy = dataclasses.replace(unit._mp_policy, output_dtype=torch.float32)


def _counted(counts: dict[str, int]) -> Any:
    """FSDP2's own reduction, with a count."""
    from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultReduceScatter

    class Counted(DefaultReduceScatter):  # type: ignore[misc]
        def __call__(self, output_tensor: Any, input_tensor: Any, *args: Any, **kw: Any) -> Any:
            counts["reduce_scatters"] += 1
            counts["bytes_reduced"] += input_tensor.numel() * input_tensor.element_size()
            return super().__call__(output_tensor, input_tensor, *args, **kw)

    return Counted()


def _shards(model: Any) -> dict[str, Any]:
    """What of the parameters this process holds, between steps."""
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

    modules = [m for m in model.modules() if isinstance(m, FSDPModule)]
    # Modules may share a unit: the tied embedding and the head do.
    units = list({id(m._get_fsdp_state()): m._get_fsdp_state() for m in modules}.values())
    # Not model.parameters(): an evaluation leaves the root's parameters whole until the next step.
    groups = [group for unit in units for group in unit._fsdp_param_groups]
    held = [p.sharded_param for group in groups for p in group.fsdp_params]
    sharded = [p for p in held if isinstance(p, DTensor)]
    computes = {str(unit._mp_policy.param_dtype).rpartition(".")[2] for unit in units}
    whole = sum(p.numel() * p.element_size() for p in sharded)
    here = sum(p.to_local().numel() * p.element_size() for p in sharded)
    return {
        "model": type(model).__name__,
        "units": len(units),
        "precision": "bf16" if computes == {"bfloat16"} else "fp32",
        "processes": max((p.device_mesh.size() for p in sharded), default=1),
        "sharded_parameters": len(sharded),
        "parameter_bytes": here,
        "parameter_bytes_whole": whole,
        "parameter_share": round(here / whole, 4) if whole else 1.0,
    }
