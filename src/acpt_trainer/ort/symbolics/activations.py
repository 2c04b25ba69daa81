"""Functions of one element, made of those whose gradient ONNX Runtime has."""

from __future__ import annotations

import importlib
import math
from typing import Any

from acpt_trainer.ort.symbolics import values


def pow(g: Any, self: Any, exponent: Any) -> Any:
    """A number to the power of a tensor as `exp(exponent * log(number))`.

    ONNX Runtime differentiates `Pow` by its base alone: the exponent's gradient is lost in silence.
    """
    helper = values.helper()
    base = helper._maybe_get_const(self, "t") if helper._is_constant(self) else None
    if base is None or base.numel() != 1 or helper._is_constant(exponent):
        opset9 = importlib.import_module(
            "torch.onnx._internal.torchscript_exporter.symbolic_opset9"
        )
        return opset9.pow(g, self, exponent)
    if float(base) <= 0 or not values.is_floating(exponent):
        return helper._unimplemented("pow", "a base that is not above zero")
    log = values.constant(g, math.log(float(base)), values.scalar_type(exponent).dtype())
    return g.op("Exp", g.op("Mul", exponent, log))


def softplus(g: Any, self: Any, beta: Any, threshold: Any) -> Any:
    """`softplus` as `relu(x) - log(sigmoid(|x|))`: `Softplus` has no gradient.

    The threshold, beyond which PyTorch returns x itself, makes no difference that a float holds.
    """
    dtype = values.scalar_type(self).dtype()
    beta = values.helper()._maybe_get_const(beta, "f")
    x = self if beta == 1 else g.op("Mul", self, values.constant(g, beta, dtype))
    tail = g.op("Log", g.op("Sigmoid", g.op("Abs", x)))
    out = g.op("Sub", g.op("Relu", x), tail)
    return out if beta == 1 else g.op("Div", out, values.constant(g, beta, dtype))


def hardsigmoid(g: Any, self: Any) -> Any:
    """`hardsigmoid` as `Clip`: `HardSigmoid` has no gradient."""
    dtype = values.scalar_type(self).dtype()
    line = g.op(
        "Add",
        g.op("Mul", self, values.constant(g, 1 / 6, dtype)),
        values.constant(g, 0.5, dtype),
    )
    return g.op("Clip", line, values.constant(g, 0.0, dtype), values.constant(g, 1.0, dtype))


def hardswish(g: Any, self: Any) -> Any:
    """`hardswish`: `HardSwish` has no gradient."""
    return g.op("Mul", self, hardsigmoid(g, self))


def expm1(g: Any, self: Any) -> Any:
    """`expm1`, which has no ONNX form, as `tanh(x / 2) * (exp(x) + 1)`: exact near zero, too."""
    dtype = values.scalar_type(self).dtype()
    half = g.op("Mul", self, values.constant(g, 0.5, dtype))
    more = g.op("Add", g.op("Exp", self), values.constant(g, 1.0, dtype))
    return g.op("Mul", g.op("Tanh", half), more)
