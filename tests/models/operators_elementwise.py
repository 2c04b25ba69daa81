"""Operators of each element by itself."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .operators import Operator, of_product

PLAIN = (
    "abs", "exp", "expm1", "sin", "cos", "tan", "atan", "sinh", "cosh", "asinh", "erf", "erfc",
    "sigmoid", "tanh", "square", "neg", "positive", "sinc", "exp2", "frac",
)  # fmt: skip
OF_POSITIVE = (
    "log",
    "log1p",
    "log2",
    "log10",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "lgamma",
    "digamma",
    "acosh",
)
OF_SMALL = ("asin", "acos", "atanh", "erfinv", "logit")
ACTIVATIONS = (
    "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus",
    "hardswish", "hardsigmoid", "hardtanh", "logsigmoid", "softsign", "tanhshrink", "softshrink",
    "hardshrink",
)  # fmt: skip
STEPS = ("sign", "round", "floor", "ceil", "trunc", "sgn")
TESTS = ("isnan", "isinf", "isfinite", "signbit", "logical_not", "isposinf", "isneginf")


def positive(y: torch.Tensor) -> torch.Tensor:
    return y.abs() + 1.1


def other(y: torch.Tensor) -> torch.Tensor:
    return y.flip(-1) * 1.3


OPERATORS: dict[str, Operator] = {
    **{n: of_product(lambda y, n=n: getattr(torch, n)(y)) for n in PLAIN},
    **{n: of_product(lambda y, n=n: getattr(torch, n)(positive(y))) for n in OF_POSITIVE},
    **{n: of_product(lambda y, n=n: getattr(torch, n)(y.sigmoid() * 0.8 + 0.1)) for n in OF_SMALL},
    **{n: of_product(lambda y, n=n: getattr(F, n)(y)) for n in ACTIVATIONS},
    **{n: of_product(lambda y, n=n: y * getattr(torch, n)(y)) for n in (*STEPS, *TESTS)},
    **{
        name: of_product(function)
        for name, function in {
            "gelu (tanh)": lambda y: F.gelu(y, approximate="tanh"),
            "leaky_relu (slope)": lambda y: F.leaky_relu(y, 0.3),
            "elu (alpha)": lambda y: F.elu(y, 0.7),
            "celu (alpha)": lambda y: F.celu(y, 0.7),
            "softplus (beta, threshold)": lambda y: F.softplus(y, 2.0, 1.5),
            "hardtanh (bounds)": lambda y: F.hardtanh(y, -0.3, 0.7),
            "threshold": lambda y: F.threshold(y, 0.1, 3.0),
            "softshrink (lambda)": lambda y: F.softshrink(y, 0.7),
            "hardshrink (lambda)": lambda y: F.hardshrink(y, 0.7),
            "glu": lambda y: F.glu(y, -1),
            "glu (axis)": lambda y: F.glu(y.repeat(1, 2, 1), 1),
            "prelu": lambda y: F.prelu(y, y.new_full((1,), 0.2)),
            "prelu (weight)": lambda y: F.prelu(y.transpose(1, 2), y[0, 0].abs()),
            "pow (2)": lambda y: y**2,
            "pow (3)": lambda y: y**3,
            "pow (-1)": lambda y: positive(y) ** -1,
            "pow (0.5)": lambda y: positive(y) ** 0.5,
            "pow (1.7)": lambda y: positive(y) ** 1.7,
            "pow (tensor)": lambda y: positive(y) ** y,
            "pow (number to a tensor)": lambda y: 2**y,
            "float_power": lambda y: torch.float_power(positive(y), 2).float(),
            "rsub": lambda y: torch.rsub(y, 2, alpha=3),
            "add (alpha)": lambda y: torch.add(y, other(y), alpha=0.3),
            "sub (alpha)": lambda y: torch.sub(y, other(y), alpha=0.3),
            "mul": lambda y: y * other(y),
            "div": lambda y: y / positive(other(y)),
            "div (floor)": lambda y: y * torch.div(y, 0.3, rounding_mode="floor"),
            "div (trunc)": lambda y: y * torch.div(y, 0.3, rounding_mode="trunc"),
            "floor_divide": lambda y: y * (y.detach() // 0.3),
            "floor_divide (integers)": lambda y: y * ((y * 10).long() // 3),
            "remainder": lambda y: torch.remainder(y, 0.7),
            "remainder (tensor)": lambda y: torch.remainder(y, positive(other(y))),
            "remainder (integers)": lambda y: y * ((y * 10).long() % 3),
            "fmod": lambda y: torch.fmod(y, 0.7),
            "clamp": lambda y: y.clamp(-0.5, 0.5),
            "clamp (min)": lambda y: y.clamp(min=0.1),
            "clamp (max)": lambda y: y.clamp(max=0.1),
            "clamp (tensors)": lambda y: torch.clamp(y, other(y) - 1, other(y) + 1),
            "clip": lambda y: torch.clip(y, -0.2, 0.3),
            "maximum": lambda y: torch.maximum(y, other(y)),
            "minimum": lambda y: torch.minimum(y, other(y)),
            "maximum (broadcast)": lambda y: torch.maximum(y, y[:, :1]),
            "minimum (number)": lambda y: torch.minimum(y, torch.tensor(0.1)),
            "fmax": lambda y: torch.fmax(y, other(y)),
            "fmin": lambda y: torch.fmin(y, other(y)),
            "max (two)": lambda y: torch.max(y, other(y)),
            "where": lambda y: torch.where(y > 0, y, other(y)),
            "where (broadcast)": lambda y: torch.where(y > 0, y[:, :1], y[..., :1]),
            "where (number)": lambda y: torch.where(y > 0, y, 0.5),
            "masked_fill": lambda y: y.masked_fill(y > 0, -1.0),
            "masked_fill (broadcast)": lambda y: y.masked_fill((y > 0)[:, :1], -1.0),
            "masked_fill (tensor)": lambda y: y.masked_fill(y > 0, y.sum()),
            "nan_to_num": torch.nan_to_num,
            "heaviside": lambda y: y * torch.heaviside(y, torch.tensor(0.5)),
            "atan2": lambda y: torch.atan2(y, other(y) + 3),
            "hypot": lambda y: torch.hypot(y, other(y)),
            "logaddexp": lambda y: torch.logaddexp(y, other(y)),
            "xlogy": lambda y: torch.xlogy(y, positive(y)),
            "addcmul": lambda y: torch.addcmul(y, y, other(y), value=0.3),
            "addcdiv": lambda y: torch.addcdiv(y, y, positive(y), value=0.3),
            "lerp": lambda y: torch.lerp(y, other(y), 0.3),
            "lerp (tensor)": lambda y: torch.lerp(y, other(y), y.sigmoid()),
            "copysign": lambda y: torch.copysign(y, other(y)),
            "ldexp": lambda y: torch.ldexp(y, torch.tensor(2)),
            "logical_and": lambda y: y * torch.logical_and(y > 0, other(y) > 0),
            "logical_xor": lambda y: y * ((y > 0) ^ (y > 0.5)),
            "bitwise_and": lambda y: y * ((y * 10).long() & 3),
            "bitwise_or": lambda y: y * ((y * 10).long() | 3),
            "bitwise_xor": lambda y: y * ((y * 10).long() ^ 3),
            "bitwise_not": lambda y: y * ~(y * 10).long(),
            "left shift": lambda y: y * ((y * 10).long().abs() << 2),
            "right shift": lambda y: y * ((y * 10).long().abs() >> 2),
            "comparisons": lambda y: y * ((y != 0) & (y <= 1) | (y == 2) & ~(y >= 3)),
            "isclose": lambda y: y * torch.isclose(y, y + 1e-9),
            "to integers": lambda y: y * (y * 3).to(torch.int32),
            "to double": lambda y: (y.double() * 2).float(),
            "to half": lambda y: y * (y * 3).long().half().float(),
            "bool": lambda y: y * (y * 3).long().bool(),
            "bool (float)": lambda y: y * (y * 3).bool(),
            "masked_fill (broadcast self)": lambda y: y[:, :1].masked_fill(y > 0, -1.0),
            "masked_fill (broadcast self, of a row)": lambda y: y[0].masked_fill(y > 0, -1.0),
            "type_as": lambda y: y * (y > 0).type_as(y),
            "add_": lambda y: (y * 1).add_(other(y)).mul_(2),
            "relu_": lambda y: (y * 1).relu_(),
            "masked_fill_": lambda y: (y * 1).masked_fill_(y > 0, 2.0),
            "masked_fill_ (tensor)": lambda y: (y * 1).masked_fill_(y > 0, y.sum()),
            "clamp_": lambda y: (y * 1).clamp_(-0.2, 0.2),
            "copy_": lambda y: torch.zeros_like(y).copy_(y),
            "fill_": lambda y: y * torch.empty_like(y).fill_(0.3),
            "zero_": lambda y: y + (y * 1).zero_(),
            "dropout (0)": lambda y: F.dropout(y, 0.0),
            "dropout (eval)": lambda y: F.dropout(y, 0.5, training=False),
            "dropout (1)": lambda y: y + F.dropout(y, 1.0),
            "dropout2d (eval)": lambda y: F.dropout2d(y, 0.5, training=False),
            "alpha_dropout (eval)": lambda y: F.alpha_dropout(y, 0.5, training=False),
            "real of complex": lambda y: torch.view_as_real(torch.view_as_complex(y.view(-1, 2))),
        }.items()
    },
}
REFUSED: dict[str, str] = {
    **dict.fromkeys(
        (
            "tan",
            "atan",
            "asin",
            "acos",
            "prelu",
            "prelu (weight)",
            "fmod",
            "atan2",
        ),
        "no gradient for the operator",
    ),
    **dict.fromkeys(
        (
            "sinh",
            "cosh",
            "asinh",
            "erfc",
            "positive",
            "sinc",
            "exp2",
            "frac",
            "lgamma",
            "digamma",
            "acosh",
            "atanh",
            "erfinv",
            "trunc",
            "sgn",
            "signbit",
            "isposinf",
            "isneginf",
            "float_power",
            "fmax",
            "fmin",
            "heaviside",
            "hypot",
            "logaddexp",
            "xlogy",
            "addcdiv",
            "copysign",
            "ldexp",
            "isclose",
            "copy_",
            "real of complex",
        ),
        "no ONNX form for the operator",
    ),
    **dict.fromkeys(("threshold",), "the exporter cannot export the operator threshold: non-z"),
    **dict.fromkeys(("pow (tensor)",), "the exporter cannot export the operator pow: an exponent"),
    **dict.fromkeys(
        (
            "bitwise_and",
            "bitwise_or",
            "bitwise_xor",
            "bitwise_not",
        ),
        "torch.onnx.errors.SymbolicValueError: ONNX export does N",
    ),
    "dropout (1)": "ratio must be in the range [0, 1)",
}
