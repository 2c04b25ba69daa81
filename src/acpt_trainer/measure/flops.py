"""Floating-point operations of a training step, and how many a machine can do in a second."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

_SIDES = (256, 1024, 2048)
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def step_flops(model: nn.Module, batch: dict[str, Any]) -> float:
    """Operations of matrix multiplications and convolutions, forward and backward.

    The model's own, counted as it trains in eager PyTorch: what a strategy computes again, or
    leaves out, does not change them.

    Args:
        model: With eager attention, whose products the counter sees.
        batch: The inputs with labels.
    """
    model.train()
    with FlopCounterMode(display=False) as counter:
        model(**batch).loss.backward()
    model.zero_grad(set_to_none=True)
    return float(counter.get_total_flops())


def matmul_rate(precision: str, device: torch.device, seconds: float = 1.0) -> float:
    """Operations a second of a square matrix multiplication, the best of those made in a time.

    The matrices are large where that takes no longer than asked, and smaller in a precision for
    which the machine has no fast kernel.

    Args:
        precision: `fp32`, `bf16` or `fp16`.
        device: Where.
        seconds: How long to try, roughly.
    """
    rate = 0.0
    for side in _SIDES:
        if rate and 4 * _operations(side) / rate > seconds:
            break
        rate = max(rate, _rate(side, _TYPES[precision], device, seconds / len(_SIDES)))
    return rate


def _operations(side: int) -> float:
    return 2.0 * side**3


def _rate(side: int, kind: torch.dtype, device: torch.device, seconds: float) -> float:
    a = torch.randn(side, side, device=device).to(kind)
    b = torch.randn(side, side, device=device).to(kind)
    # In half precision the kernels for a weight, which is transposed, may be others by far.
    kernels = (lambda: torch.mm(a, b), lambda: nn.functional.linear(a, b))
    best, tries, begun = float("inf"), 0, time.perf_counter()
    with torch.no_grad():
        while tries < 6 or time.perf_counter() - begun < seconds:
            started = time.perf_counter()
            kernels[tries % 2]()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if tries > 1:  # the first of each loads the kernel
                best = min(best, time.perf_counter() - started)
            tries += 1
    return _operations(side) / best
