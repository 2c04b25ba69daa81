"""Gradients of operators that ONNX Runtime lacks, or that its CPU kernels compute slowly.

A definition is a list of nodes in the words of ORTModule's registry: `GO(i)` is the gradient of the
i-th output, `I(i)` and `O(i)` are inputs and outputs of the operator, `GI(i)` is what is computed.
ONNX Runtime looks here before it asks its own gradient builders, and keeps what it was told until
the process ends.

The slow kernels of 1.19.2 go through their elements one by one and on one thread. The definitions
here are made of operators that are vectorized and use all threads. How much that is:
`benchmarks/ort_kernels.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from acpt_trainer.ort.cuda import has_cuda

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


def _fast_gelu() -> Definition:
    """Of y = x s with s = sigmoid(k x (1 + a x²)): s (1 + (x - y) k (1 + 3 a x²)).

    That is GELU's approximation by tanh, of which (1 + tanh(u)) / 2 = sigmoid(2 u).
    """
    k = 2 * math.sqrt(2 / math.pi)
    return [
        _number("k", k),
        _number("cubic", k * 0.044715),
        _number("three", 3.0),
        _number("one", 1.0),
        ("Mul", ["I(0)", "I(0)"], ["square"]),
        ("Mul", ["square", "cubic"], ["bend"]),
        ("Add", ["bend", "k"], ["rate"]),
        ("Mul", ["I(0)", "rate"], ["argument"]),
        ("Sigmoid", ["argument"], ["s"]),
        ("Mul", ["bend", "three"], ["three_bend"]),
        ("Add", ["three_bend", "k"], ["argument_slope"]),
        ("Sub", ["I(0)", "O(0)"], ["rest"]),
        ("Mul", ["rest", "argument_slope"], ["slope"]),
        ("Add", ["slope", "one"], ["more"]),
        ("Mul", ["s", "more"], ["derivative"]),
        ("Mul", ["GO(0)", "derivative"], ["GI(0)"]),
    ]


def _gelu() -> Definition:
    """Of y = x (1 + erf(a)) / 2 with a = x / √2: (1 + erf(a) + a (2 / √π) exp(-a²)) / 2."""
    return [
        _number("root", math.sqrt(0.5)),
        _number("k", 2 / math.sqrt(math.pi)),
        _number("one", 1.0),
        _number("half", 0.5),
        ("Mul", ["I(0)", "root"], ["a"]),
        ("Erf", ["a"], ["erf"]),
        ("Mul", ["a", "a"], ["square"]),
        ("Neg", ["square"], ["exponent"]),
        ("Exp", ["exponent"], ["bell"]),
        ("Mul", ["a", "bell"], ["product"]),
        ("Mul", ["product", "k"], ["slope"]),
        ("Add", ["erf", "slope"], ["sum"]),
        ("Add", ["sum", "one"], ["twice"]),
        ("Mul", ["twice", "half"], ["derivative"]),
        ("Mul", ["GO(0)", "derivative"], ["GI(0)"]),
    ]


def _log_softmax() -> Definition:
    """Over the last axis: `symbolics.normalization.log_softmax` exports no other."""
    last = {"value": [-1], "dtype": "int", "is_tensor": True}
    return [
        ("Constant", [], ["last"], {"value": last}),
        ("Exp", ["O(0)"], ["softmax"]),
        ("ReduceSum", ["GO(0)", "last"], ["total"], {"keepdims": {"value": 1, "dtype": "int"}}),
        ("Mul", ["softmax", "total"], ["share"]),
        ("Sub", ["GO(0)", "share"], ["GI(0)"]),
    ]


LACKING: Mapping[str, Definition] = {
    "::CumSum": _cumulative(),
    **{f"::{name}": _zero() for name in ("Sign", "Floor", "Ceil", "Round")},
}
"""Of which ONNX Runtime has no gradient, by `domain::operator`."""

FASTER_ON_CPU: Mapping[str, Definition] = {
    "com.microsoft::FastGelu": _fast_gelu(),
    "com.microsoft::Gelu": _gelu(),
    "::LogSoftmax": _log_softmax(),
}
"""Instead of kernels that are slow on a CPU; a build for CUDA has fast ones."""


def definitions() -> dict[str, Definition]:
    """All that the installed build needs."""
    return {**LACKING, **({} if has_cuda() else FASTER_ON_CPU)}
