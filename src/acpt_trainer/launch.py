"""What the launcher and the environment say: how many processes, and which engine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from acpt_trainer.errors import Problem
from acpt_trainer.strategies.base import AcceleratorStrategy

if TYPE_CHECKING:
    from transformers import TrainingArguments

_USE_DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"
_CONTAINED = (_USE_DEEPSPEED, "ACCELERATE_USE_FSDP", "FSDP_CPU_RAM_EFFICIENT_LOADING")


@contextlib.contextmanager
def contained_environment() -> Iterator[None]:
    """Keeps Accelerate's `ACCELERATE_USE_DEEPSPEED` and the like from outliving the accelerator.

    Left in place they turn the next run in this process into a DeepSpeed or FSDP run that nobody
    asked for.
    """
    before = {name: os.environ.get(name) for name in _CONTAINED}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def launched_processes() -> int:
    """How many processes the launcher started, by its environment."""
    return max(1, int(os.environ.get("WORLD_SIZE") or 1))


def set_up_devices_anew(args: TrainingArguments) -> None:
    """Lets training arguments look for devices and processes again, and resets Accelerate's state.

    transformers caches there what it found; reading `device` looks again.
    """
    vars(args).pop("_setup_devices", None)
    _ = args.device


def join_processes(args: TrainingArguments) -> list[Problem]:
    """Makes the training arguments see every process that the launcher started.

    On a machine without an accelerator Accelerate overlooks `torchrun` unless `use_cpu=True` is
    said: each process then trains alone, on the same data, with no error.

    Args:
        args: The arguments; changed if they overlook the processes.

    Returns:
        A problem if they still do.
    """
    import torch

    if args.world_size == launched_processes():
        return []
    if not torch.cuda.is_available() and args.device.type == "cpu" and not args.use_cpu:
        args.use_cpu = True
        args.dataloader_pin_memory = False
        set_up_devices_anew(args)
    if args.world_size == launched_processes():
        return []
    return [
        Problem(
            f"the launcher started {launched_processes()} processes and the training arguments see "
            f"{args.world_size}",
            f"WORLD_SIZE={os.environ.get('WORLD_SIZE')}",
            "make TrainingArguments after the launcher's variables are set, or unset WORLD_SIZE",
        )
    ]


def show_fsdp_to_accelerate(arguments: dict[str, Any], mixed_precision: str) -> None:
    """Has Accelerate take an FSDP plugin on CPUs, where it overlooks it and trains under DDP.

    On GPUs Accelerate takes the plugin by itself.

    Args:
        arguments: Of the plugin.
        mixed_precision: `no` or `bf16`; that of the accelerator that is made next.
    """
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import (
        DistributedType,
        FullyShardedDataParallelPlugin,
        TorchDynamoPlugin,
    )

    if PartialState().distributed_type != DistributedType.MULTI_CPU:
        return
    with contained_environment():
        plugin = FullyShardedDataParallelPlugin(**arguments)
        if mixed_precision != "no":
            plugin.set_mixed_precision(mixed_precision)
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        # An accelerator takes over the state that is there.
        state = AcceleratorState(
            mixed_precision, dynamo_plugin=TorchDynamoPlugin(), _from_accelerator=True
        )
        state.fsdp_plugin = plugin


@dataclass(frozen=True)
class _Engine:
    """What else may take over the step, and who asks for it.

    Attributes:
        name: What it is called.
        argument: Of `TrainingArguments`.
        variable: Of Accelerate's environment, which `accelerate launch` sets.
        fix: What to do instead.
        checkpoint_format: Of the strategies whose own engine it is, however it is asked for.
    """

    name: str
    argument: str
    variable: str
    fix: str
    checkpoint_format: str = ""

    def asked_by(self, args: TrainingArguments | None) -> str | None:
        """Where it is asked for; None where it is not."""
        said = getattr(args, self.argument, None) if args is not None else None
        if said:
            shown = "True" if said is True else "..."
            return f"TrainingArguments({self.argument}={shown})"
        value = os.environ.get(self.variable)
        return f"{self.variable}={value}" if value and self._means(value) else None

    def _means(self, value: str) -> bool:
        from accelerate.utils import str_to_bool

        if self.variable.endswith("_BACKEND"):  # a name, not yes or no
            return value.lower() != "no"
        try:
            return bool(str_to_bool(value))
        except ValueError:  # neither: libraries read it each in its own way
            return True


_OUT = "out of arguments and environment (`accelerate launch` sets variables by its config)"
_ENGINES = (
    _Engine(
        "DeepSpeed", "deepspeed", _USE_DEEPSPEED,
        f"use strategy='ds' or 'ds_ort', or take DeepSpeed {_OUT}", "deepspeed",
    ),
    _Engine(
        "an FSDP setting", "fsdp", "ACCELERATE_USE_FSDP",
        f"use strategy='fsdp', which sets FSDP up by itself, and take the setting {_OUT}",
    ),
    _Engine(
        "a torch.compile setting", "torch_compile", "ACCELERATE_DYNAMO_BACKEND",
        f"use strategy='compile' or 'ds_compile', and take the setting {_OUT}",
    ),
    _Engine(
        "tensor, context or sequence parallelism", "parallelism_config",
        "ACCELERATE_USE_PARALLELISM_CONFIG",
        f"take it {_OUT}: no strategy divides the model so; use transformers.Trainer for that",
    ),
    _Engine(
        "Megatron-LM", "", "ACCELERATE_USE_MEGATRON_LM",
        f"take it {_OUT}: no strategy runs it; use accelerate.Accelerator for that",
    ),
)  # fmt: skip


def foreign_engine_problems(
    strategy: AcceleratorStrategy, args: TrainingArguments | None = None
) -> list[Problem]:
    """What the arguments or the environment ask for that the strategy does not run.

    Args:
        strategy: The strategy that was asked for.
        args: The training arguments, if there are any.
    """
    asked = (
        (engine, engine.asked_by(args))
        for engine in _ENGINES
        if engine.checkpoint_format != strategy.checkpoint_format
    )
    return [
        Problem(
            f"strategy {strategy.label!r} is asked for together with {engine.name}",
            where,
            engine.fix,
        )
        for engine, where in asked
        if where is not None
    ]
