"""Which precisions a training graph runs in, and what is said of the others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from acpt_trainer.errors import GraphBuildError, Problem

TRAINS_IN = {"cpu": ("fp32",), "cuda": ("fp16", "fp32")}
"""By device type; `OrtStrategy.precisions` says why."""

_NAMES = {torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}


def refuse(model: nn.Module, autocast: torch.dtype | None) -> None:
    """Stops at a graph in a precision that ONNX Runtime lacks, before it is exported.

    A model may be cast, or autocast be opened, after everything was checked.

    Args:
        model: The model.
        autocast: What autocast computes in on the model's device; None where it is not on.

    Raises:
        GraphBuildError: If ONNX Runtime does not train in it.
    """
    name, device = type(model).__name__, next(model.parameters()).device.type
    if autocast is not None and _NAMES.get(autocast) not in TRAINS_IN.get(device, ()):
        raise GraphBuildError(
            f"ONNX Runtime has no kernels to train {name} under autocast in {autocast}.\n"
            f"    where: torch.autocast({device!r}, {autocast}) is open around the step\n"
            "    fix:   leave autocast out to train in fp32, or use strategy='no_acc' or 'ds' "
            "with precision='bf16'.\n"
            "    This step was not run; this package never falls back to PyTorch silently."
        )
    problems = weight_problems(model, (torch.float16, torch.float32))
    if problems:
        raise GraphBuildError(str(problems[0]))


def weight_problems(
    model: nn.Module,
    trained: Sequence[torch.dtype] = (torch.float16, torch.bfloat16, torch.float32),
) -> list[Problem]:
    """Weights of a type that no graph trains.

    Args:
        model: The model.
        trained: The types to accept. Before training the half ones are every strategy's matter,
            which ask for fp32 weights.
    """
    for name, parameter in model.named_parameters():
        inexact = parameter.is_floating_point() or parameter.is_complex()
        if inexact and parameter.dtype not in trained:
            return [
                Problem(
                    f"ONNX Runtime has no kernels to train weights in {parameter.dtype}",
                    f"{type(model).__name__}.{name}",
                    "call model.float(), or use strategy='no_acc' or 'ds'",
                )
            ]
    return []
