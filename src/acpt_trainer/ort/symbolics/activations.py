"""Functions of one element, made of those whose gradient ONNX Runtime has."""

from __future__ import annotations

import importlib
import math
from typing import Any

from acpt_trainer.ort.symbolics import values


def _number(g: Any, number: float, like: Any) -> Any:
    return values.constant(g, number, values.scalar_type(like).dtype())


def _read(value: Any, default: float) -> float:
    return float(values.helper()._maybe_get_const(value, "f")) if values.given(value) else default


def pow(g: Any, self: Any, exponent: Any) -> Any:
    """A number to the power of a tensor as `exp(exponent * log(number))`.

    ONNX Runtime differentiates `Pow` by its base alone: the exponent's gradient is lost in silence.
    """
    helper = values.helper()
    base = helper._maybe_get_const(self, "t") if helper._is_constant(self) else None
    if base is None or base.numel() != 1 or helper._is_constant(exponent):
        if list(g.original_node.inputs())[1].requiresGrad():
            return helper._unimplemented("pow", "an exponent that is differentiated")
        opset9 = importlib.import_module(
            "torch.onnx._internal.torchscript_exporter.symbolic_opset9"
        )
        return opset9.pow(g, self, exponent)
    if float(base) <= 0 or not values.is_floating(exponent):
        return helper._unimplemented("pow", "a base that is not above zero")
    log = values.constant(g, math.log(float(base)), values.scalar_type(exponent).dtype())
    return g.op("Exp", g.op("Mul", exponent, log))


def gelu(g: Any, self: Any, approximate: Any = None) -> Any:
    """`gelu` by tanh as ONNX Runtime's own operator: its fusion does not find PyTorch's form."""
    tanh = values.given(approximate) and values.helper()._get_const(approximate, "s", "") == "tanh"
    if not tanh or values.scalar_type(self).name != "FLOAT":
        opset9 = importlib.import_module(
            "torch.onnx._internal.torchscript_exporter.symbolic_opset9"
        )
        return opset9.gelu(g, self, approximate)
    out = g.op("com.microsoft::FastGelu", self)
    out.setType(self.type())
    return out


def softplus(g: Any, self: Any, beta: Any = None, threshold: Any = None) -> Any:
    """`softplus` as `log(exp(x) + 1)` up to the threshold and x beyond: `Softplus` has no gradient.

    As in PyTorch, and with its gradient of a half at zero, where forms made of `Relu` have none.
    """
    beta, threshold = _read(beta, 1.0), _read(threshold, 20.0)
    x = self if beta == 1 else g.op("Mul", self, _number(g, beta, self))
    large = g.op("Greater", x, _number(g, threshold, self))
    within = g.op("Where", large, _number(g, threshold, self), x)  # exp of the rest overflows
    soft = g.op("Log", g.op("Add", g.op("Exp", within), _number(g, 1.0, self)))
    if beta != 1:
        soft = g.op("Div", soft, _number(g, beta, self))
    return g.op("Where", large, self, soft)


def log_sigmoid(g: Any, self: Any) -> Any:
    """`logsigmoid` from `softplus`: the exporter's logarithm of a sigmoid is -inf below -88."""
    negative = g.op("Neg", self)
    negative.setType(self.type())
    return g.op("Neg", softplus(g, negative))


def hardtanh(g: Any, self: Any, lowest: Any, highest: Any) -> Any:
    """`hardtanh` and `relu6` without a gradient at the bounds themselves, where `Clip` has one."""
    return _within(
        g, self, *(float(values.helper()._maybe_get_const(v, "f")) for v in (lowest, highest))
    )


def relu6(g: Any, self: Any) -> Any:
    """See `hardtanh`."""
    return _within(g, self, 0.0, 6.0)


def _within(g: Any, x: Any, lowest: float, highest: float) -> Any:
    low, high = (_number(g, v, x) for v in (lowest, highest))
    above = g.op("Where", g.op("Greater", x, low), x, low)
    return g.op("Where", g.op("Less", x, high), above, high)


def mish(g: Any, self: Any) -> Any:
    """`mish`, made of `softplus`."""
    return g.op("Mul", self, g.op("Tanh", softplus(g, self)))


def hardsigmoid(g: Any, self: Any) -> Any:
    """`hardsigmoid`: `HardSigmoid` has no gradient."""
    dtype = values.scalar_type(self).dtype()
    line = g.op(
        "Add",
        g.op("Mul", self, values.constant(g, 1 / 6, dtype)),
        values.constant(g, 0.5, dtype),
    )
    line.setType(self.type())
    return _within(g, line, 0.0, 1.0)


def hardswish(g: Any, self: Any) -> Any:
    """`hardswish`: `HardSwish` has no gradient."""
    return g.op("Mul", self, hardsigmoid(g, self))


def expm1(g: Any, self: Any) -> Any:
    """`expm1`, which has no ONNX form, as `tanh(x / 2) * (exp(x) + 1)`: exact near zero, too."""
    dtype = values.scalar_type(self).dtype()
    half = g.op("Mul", self, values.constant(g, 0.5, dtype))
    more = g.op("Add", g.op("Exp", self), values.constant(g, 1.0, dtype))
    return g.op("Mul", g.op("Tanh", half), more)


def _bent(g: Any, self: Any, alpha: float, scale: float, input_scale: float) -> Any:
    positive = g.op("Greater", self, _number(g, 0.0, self))
    # What is not chosen must not overflow: its gradient would be 0 times infinity.
    below = g.op("Where", positive, _number(g, 0.0, self), self)
    grown = g.op("Exp", g.op("Mul", below, _number(g, input_scale, self)))
    bent = g.op("Sub", grown, _number(g, 1.0, self))
    bent = g.op("Mul", bent, _number(g, alpha * scale, self))
    return g.op("Where", positive, g.op("Mul", self, _number(g, scale, self)), bent)


def elu(g: Any, self: Any, alpha: Any = None, scale: Any = None, input_scale: Any = None) -> Any:
    """`elu`."""
    return _bent(g, self, _read(alpha, 1.0), _read(scale, 1.0), _read(input_scale, 1.0))


def celu(g: Any, self: Any, alpha: Any = None) -> Any:
    """`celu`."""
    return _bent(g, self, _read(alpha, 1.0), 1.0, 1.0 / _read(alpha, 1.0))


def selu(g: Any, self: Any) -> Any:
    """`selu`, with the constants of its paper (https://arxiv.org/abs/1706.02515)."""
    return _bent(g, self, 1.6732632423543772, 1.0507009873554805, 1.0)
