"""What the launcher and the environment say: how many processes, and which engine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
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


def foreign_engine_problems(
    strategy: AcceleratorStrategy, args: TrainingArguments | None = None
) -> list[Problem]:
    """Whether the arguments or the environment ask for DeepSpeed and the strategy does not.

    Args:
        strategy: The strategy that was asked for.
        args: The training arguments, if there are any.
    """
    if strategy.checkpoint_format == "deepspeed":
        return []
    if args is not None and args.deepspeed:
        where = "TrainingArguments(deepspeed=...)"
    elif os.environ.get(_USE_DEEPSPEED, "false").lower() in (
        "1",
        "true",
        "t",
        "yes",
        "y",
        "on",
    ):
        where = f"{_USE_DEEPSPEED}={os.environ[_USE_DEEPSPEED]}"
    else:
        return []
    return [
        Problem(
            f"strategy {strategy.label!r} is asked for together with DeepSpeed",
            where,
            "use strategy='ds' or 'ds_ort', or take DeepSpeed out of arguments and environment",
        )
    ]
