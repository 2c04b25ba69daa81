"""What the launcher and the environment say: how many processes, and which engine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from acpt_trainer.errors import Problem
from acpt_trainer.strategies.base import AcceleratorStrategy

if TYPE_CHECKING:
    from transformers import TrainingArguments

_USE_DEEPSPEED = "ACCELERATE_USE_DEEPSPEED"


@contextlib.contextmanager
def contained_environment() -> Iterator[None]:
    """Keeps Accelerate's `ACCELERATE_USE_DEEPSPEED` from outliving the accelerator that set it.

    Left in place it turns the next run in this process into a DeepSpeed run that nobody asked for.
    """
    before = os.environ.get(_USE_DEEPSPEED)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_USE_DEEPSPEED, None)
        else:
            os.environ[_USE_DEEPSPEED] = before


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
