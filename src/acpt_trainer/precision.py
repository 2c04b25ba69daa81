"""Which precision to train in: what was asked, what the device is good at, what was used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from acpt_trainer.errors import ConfigurationError, Problem
from acpt_trainer.strategies.base import AcceleratorStrategy

if TYPE_CHECKING:
    from transformers import TrainingArguments

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_FROM_ACCELERATE = {"no": "fp32", "bf16": "bf16", "fp16": "fp16"}


def best_precision(device: str) -> str:
    """The fastest precision that a device trains in well.

    Args:
        device: Type of the device, `cpu` or `cuda`.

    Returns:
        `bf16` on GPUs from Ampere on and on CPUs with AVX512-BF16 or AMX, `fp16` on older GPUs,
        `fp32` otherwise.
    """
    import torch

    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native else "fp16"
    if device == "cpu":
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        return "bf16" if fast else "fp32"
    return "fp32"


def choose_precision(asked: str | None, strategy: AcceleratorStrategy, device: str) -> str | None:
    """Turns what was asked into a precision.

    Args:
        asked: One of `PRECISIONS`, or None to leave it to the training arguments.
        strategy: The strategy that will train.
        device: Type of the device.

    Returns:
        `fp32`, `bf16` or `fp16`; None if nothing was asked. `auto` takes the device's best where
        the strategy trains in it, the strategy's own order otherwise.

    Raises:
        ConfigurationError: If `asked` is no precision.
    """
    if asked is None:
        return None
    if asked not in PRECISIONS:
        raise ConfigurationError(
            [
                Problem(
                    f"there is no precision {asked!r}",
                    f"precision={asked!r}",
                    f"give one of: {', '.join(PRECISIONS)}",
                )
            ]
        )
    if asked != "auto":
        return asked
    best, supported = best_precision(device), strategy.precisions(device)
    if best in supported:
        return best
    # A half precision that the device is slow in is not chosen for the user: fp32 is safe.
    return "fp32" if "fp32" in supported or not supported else supported[0]


def precision_of(args: TrainingArguments) -> str:
    """The precision that training arguments (and `ACCELERATE_MIXED_PRECISION`) ask for."""
    if args.bf16 or args.fp16:  # set after construction too, when mixed_precision is not
        return "bf16" if args.bf16 else "fp16"
    return _FROM_ACCELERATE.get(args.mixed_precision, str(args.mixed_precision))


def apply_precision(args: TrainingArguments, precision: str) -> list[Problem]:
    """Writes a precision into training arguments.

    Args:
        args: The arguments; changed only if they do not contradict.
        precision: `fp32`, `bf16` or `fp16`.

    Returns:
        A problem if the arguments ask for another one.
    """
    said = "bf16" if args.bf16 else "fp16" if args.fp16 else None
    if said is not None and said != precision:
        return [
            Problem(
                f"precision={precision!r} and TrainingArguments({said}=True) differ",
                f"precision={precision!r}",
                f"leave precision out, or set {said}=False",
            )
        ]
    args.bf16, args.fp16 = precision == "bf16", precision == "fp16"
    args.mixed_precision = "no" if precision == "fp32" else precision
    return []
