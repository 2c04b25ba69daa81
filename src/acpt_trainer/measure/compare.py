"""Comparing what two runs computed: tensors by name, and losses that dropout makes random."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import torch

Tensors = Mapping[str, torch.Tensor | None]

FLOOR = 1e-3
"""A tensor this much smaller than the largest one is compared with that one instead: a gradient
that is zero but for rounding, such as of the bias of attention's keys, has no relative error."""

_MEANS_APART = 4.0
"""Standard errors that two means may be apart."""

_SPREADS_APART = 2.5
"""Ratio of two spreads that is still one."""


def rms(tensor: torch.Tensor) -> float:
    """Root of the mean square, summed in float64."""
    values = tensor.detach().double()
    return float(values.square().mean().sqrt()) if values.numel() else 0.0


def differences(
    ours: Tensors, theirs: Tensors, least: Mapping[str, float] = {}
) -> dict[str, float]:
    """The relative difference of each tensor.

    Args:
        ours: By name; None where there is none.
        theirs: The same of the run to compare with.
        least: By name, a size below which a difference is not told from rounding.

    Returns:
        By name in the order of `theirs`; infinite where only one has the tensor.
    """
    sizes = {name: rms(tensor) for name, tensor in theirs.items() if tensor is not None}
    floor = FLOOR * max(sizes.values(), default=0.0)
    found = {}
    for name, tensor in theirs.items():
        mine = ours.get(name)
        if mine is None or tensor is None or mine.shape != tensor.shape:
            found[name] = 0.0 if mine is None and tensor is None else math.inf
            continue
        apart = rms(mine.double() - tensor.double())
        scale = max(sizes[name], floor, (least or {}).get(name, 0.0))
        found[name] = apart / scale if scale else (0.0 if apart == 0 else math.inf)
    return found


def relative(ours: float, theirs: float) -> float:
    """The relative difference of two numbers."""
    return abs(ours - theirs) / max(abs(theirs), 1e-12)


def distribution_fault(
    ours: Sequence[float], theirs: Sequence[float], tolerance: float
) -> str | None:
    """Why two samples are not of one random variable; None where they may be.

    Args:
        ours: Losses of one batch with the same weights, masks drawn anew for each.
        theirs: The same of the run to compare with.
        tolerance: Relative difference of the mean that rounding explains.
    """
    if not all(map(math.isfinite, ours)):
        return "a loss is not finite"
    mean, expected = statistics.fmean(ours), statistics.fmean(theirs)
    spread, usual = statistics.stdev(ours), statistics.stdev(theirs)
    error = math.sqrt((spread**2 + usual**2) / len(ours))
    if not abs(mean - expected) <= _MEANS_APART * error + tolerance * abs(expected):
        return f"the mean loss is {mean:.6g}, and {expected:.6g} in PyTorch"
    noise = tolerance * abs(expected)
    if usual <= noise:
        return None if spread <= 2 * noise else f"losses spread by {spread:.2g}, PyTorch's do not"
    if len(set(ours)) < len(set(theirs)) / 2:
        return "the loss hardly changes from draw to draw: masks repeat"
    if not 1 / _SPREADS_APART <= spread / usual <= _SPREADS_APART:
        return f"losses spread by {spread:.2g}, and by {usual:.2g} in PyTorch"
    return None
