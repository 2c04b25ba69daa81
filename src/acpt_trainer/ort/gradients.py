"""Gradients of operators that ONNX Runtime lacks.

A definition is a list of nodes in the words of ORTModule's registry: `GO(i)` is the gradient of the
i-th output, `I(i)` and `O(i)` are inputs and outputs of the operator, `GI(i)` is what is computed.
ONNX Runtime looks here before it asks its own gradient builders, and keeps what it was told until
the process ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Node = tuple[Any, ...]
Definition = list[Node]


def _number(name: str, value: float) -> Node:
    """A constant of the type of the operator's input."""
    stated = {"value": value, "dtype": "IElemType(0)", "is_tensor": True}
    return ("Constant", [], [name], {"value": stated})


def _zero() -> Definition:
    """Flat everywhere, also where what comes in is infinite or not a number."""
    return [
        _number("zero", 0.0),
        ("Shape", ["I(0)"], ["shape"]),
        ("Expand", ["zero", "shape"], ["GI(0)"]),
    ]


def _cumulative() -> Definition:
    """Each element is in all sums from its place on: summed from the end."""
    reverse = {"reverse": {"value": 1, "dtype": "int"}}
    return [("CumSum", ["GO(0)", "I(1)"], ["GI(0)"], reverse)]


LACKING: Mapping[str, Definition] = {
    "::CumSum": _cumulative(),
    **{f"::{name}": _zero() for name in ("Sign", "Floor", "Ceil", "Round")},
}
"""Of which ONNX Runtime has no gradient, by `domain::operator`."""
