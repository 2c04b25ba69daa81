"""How far a strategy may be from eager PyTorch, from the precision and the model alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

UNIT_ROUNDOFF = {"fp32": 2.0**-24, "bf16": 2.0**-8}
"""Largest relative error of rounding one number."""

_DEVIATIONS = 4
"""Standard deviations of a random walk that are allowed."""


@dataclass(frozen=True)
class Tolerance:
    """Relative differences that rounding explains.

    Roundings are taken for a random walk: the error of numbers that pass `depth` layers, each of
    which sums `terms` products, grows with the square root of both. In half precision the sums are
    kept in fp32 and rounded once.

    Attributes:
        precision: The precision that the strategy trains in.
        unit_roundoff: Relative error of rounding one number in it.
        depth: Layers with weights.
        terms: Products that a layer sums, the median of their shorter sides.
        gradient: For the gradient of a parameter, and for what an optimizer made of them.
        loss: For a loss, a mean over many numbers.
    """

    precision: str
    unit_roundoff: float
    depth: int
    terms: int
    gradient: float
    loss: float


def tolerance_for(model: nn.Module, precision: str) -> Tolerance:
    """The tolerance of a model in a precision.

    Args:
        model: The model.
        precision: `fp32` or `bf16`.
    """
    weights = [p for p in model.parameters() if p.ndim >= 2]
    depth = max(1, len(weights))
    sides = sorted(min(w.shape[0], w[0].numel()) for w in weights) or [1]
    terms = sides[len(sides) // 2] if precision == "fp32" else 1
    unit = UNIT_ROUNDOFF[precision]
    walk = unit * math.sqrt(depth * terms)
    return Tolerance(precision, unit, depth, terms, gradient=_DEVIATIONS * walk, loss=walk)
