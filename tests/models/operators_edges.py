"""Operators where their values or gradients are special: ties, zeros, infinities, not numbers."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from .operators import Operator, of_values

INFINITE, NAN = float("inf"), float("nan")


def masked(y: torch.Tensor) -> torch.Tensor:
    return y.masked_fill(y < 0, -INFINITE)


OPERATORS: dict[str, Operator] = {
    "relu at 0": of_values(F.relu, -1.0, 0.0, 1.0),
    "relu6 at its bounds": of_values(F.relu6, 0.0, 6.0, 7.0),
    "leaky_relu at 0": of_values(F.leaky_relu, -1.0, 0.0, 1.0),
    "elu at 0": of_values(F.elu, -1.0, 0.0, 1.0),
    "hardtanh at its bounds": of_values(F.hardtanh, -1.0, 0.0, 1.0),
    "hardsigmoid at its bounds": of_values(F.hardsigmoid, -3.0, 0.0, 3.0),
    "hardswish at its bounds": of_values(F.hardswish, -3.0, 0.0, 3.0),
    "softshrink at its bounds": of_values(F.softshrink, -0.5, 0.0, 0.5),
    "hardshrink at its bounds": of_values(F.hardshrink, -0.5, 0.0, 0.5),
    "threshold at it": of_values(lambda y: F.threshold(y, 0.5, 2.0), 0.4, 0.5, 0.6),
    "prelu at 0": of_values(lambda y: F.prelu(y, y.new_full((1,), 0.2)), -1.0, 0.0, 1.0),
    "abs at 0": of_values(torch.abs, -1.0, 0.0, 1.0),
    "sign at 0": of_values(lambda y: y * y.sign(), -1.0, 0.0, 1.0),
    "sqrt at 0": of_values(torch.sqrt, 0.0, 1.0, 4.0),
    "sqrt below 0": of_values(torch.sqrt, -1.0, 1.0, 4.0),
    "log at 0": of_values(torch.log, 0.0, 1.0, 4.0),
    "reciprocal at 0": of_values(torch.reciprocal, 0.0, 1.0, 4.0),
    "0 / 0": of_values(lambda y: y / y, 0.0, 1.0, 4.0),
    "pow (2) at 0": of_values(lambda y: y**2, -1.0, 0.0, 1.0),
    "pow (0) at 0": of_values(lambda y: y**0 * y, -1.0, 0.0, 1.0),
    "pow (1.5) at 0": of_values(lambda y: y**1.5, 0.0, 1.0, 2.0),
    "pow (3) below 0": of_values(lambda y: y**3, -2.0, -1.0, -0.5),
    "pow (tensor) at 0": of_values(lambda y: y.abs() ** (y + 1), 0.0, 1.0, 2.0),
    "0 to a tensor": of_values(lambda y: 0.0**y, 0.0, 1.0, 2.0),
    "clamp at its bounds": of_values(lambda y: y.clamp(-1, 1), -2.0, -1.0, 1.0, 2.0),
    "clamp (min) at it": of_values(lambda y: y.clamp(min=0), -1.0, 0.0, 1.0),
    "clamp (min) of not a number": of_values(lambda y: y.clamp(min=0), NAN, 0.0, 1.0),
    "maximum of equals": of_values(lambda y: torch.maximum(y, y.abs()), -1.0, 0.0, 1.0),
    "minimum of equals": of_values(lambda y: torch.minimum(y, y.abs()), -1.0, 0.0, 1.0),
    "maximum of not a number": of_values(lambda y: torch.maximum(y, y.flip(-1)), NAN, 0.0, 1.0),
    "max of equals": of_values(lambda y: y.max(-1).values, 1.0, 1.0, 0.0),
    "max of all, of equals": of_values(lambda y: y.max(), 1.0, 1.0, 0.0),
    "amax of equals": of_values(lambda y: y.amax(-1), 1.0, 1.0, 0.0),
    "argmax of equals": of_values(lambda y: y * y.argmax(-1, keepdim=True), 0.0, 1.0, 1.0),
    "topk of equals": of_values(lambda y: y.topk(2).values, 1.0, 1.0, 0.0),
    "sort of equals": of_values(lambda y: y.sort(stable=True).values, 1.0, 0.0, 1.0, 0.0),
    "softplus, large": of_values(F.softplus, -100.0, 0.0, 19.0, 21.0, 100.0),
    "softplus (beta), large": of_values(lambda y: F.softplus(y, 3.0), -50.0, 6.0, 7.0, 50.0),
    "logsigmoid, large": of_values(F.logsigmoid, -100.0, -1.0, 0.0, 100.0),
    "sigmoid, large": of_values(torch.sigmoid, -100.0, -20.0, 20.0, 100.0),
    "tanh, large": of_values(torch.tanh, -100.0, -10.0, 10.0, 100.0),
    "gelu, large": of_values(F.gelu, -100.0, -6.0, 6.0, 100.0),
    "silu, large": of_values(F.silu, -100.0, -6.0, 6.0, 100.0),
    "mish, large": of_values(F.mish, -100.0, -6.0, 6.0, 100.0),
    "elu, large": of_values(F.elu, -100.0, -6.0, 6.0, 100.0),
    "exp, large": of_values(torch.exp, -100.0, 80.0, 88.0, 100.0),
    "expm1, small": of_values(torch.expm1, -1e-6, 1e-6, 1e-4, 1.0),
    "log1p, small": of_values(torch.log1p, -1e-6, 1e-6, 1e-4, 1.0),
    "logsumexp, large": of_values(lambda y: y.logsumexp(-1), 100.0, 1000.0, 1000.0),
    "logsumexp of -inf": of_values(lambda y: masked(y).logsumexp(-1), -1.0, 0.0, 1.0),
    "softmax, large": of_values(lambda y: y.softmax(-1), 100.0, 1000.0, 1000.0),
    "softmax of -inf": of_values(lambda y: masked(y).softmax(-1), -1.0, 0.0, 1.0),
    "softmax, all -inf": of_values(lambda y: masked(y).softmax(-1), -1.0, -2.0, -3.0),
    "log_softmax of -inf": of_values(
        lambda y: masked(y).log_softmax(-1).masked_fill(y < 0, 0.0), -1.0, 0.0, 1.0
    ),
    "norm of zeros": of_values(lambda y: y.norm(dim=-1), 0.0, 0.0, 0.0),
    "normalize of zeros": of_values(lambda y: F.normalize(y, dim=-1), 0.0, 0.0, 0.0),
    "cosine_similarity of zeros": of_values(
        lambda y: F.cosine_similarity(y, y.flip(-1), -1), 0.0, 0.0, 0.0
    ),
    "std of equals": of_values(lambda y: y.std(-1), 1.0, 1.0, 1.0),
    "std_mean of equals": of_values(lambda y: torch.std_mean(y, -1)[0], 1.0, 1.0, 1.0),
    "prod with a 0": of_values(lambda y: y.prod(-1), 2.0, 0.0, 3.0),
    "prod with two 0": of_values(lambda y: y.prod(-1), 2.0, 0.0, 0.0),
    "cumprod with a 0": of_values(lambda y: y.cumprod(-1), 2.0, 0.0, 3.0),
    "nan_to_num of all": of_values(torch.nan_to_num, NAN, INFINITE, -INFINITE, 1.0),
    "mean of not a number": of_values(lambda y: y.mean(-1), NAN, 1.0, 2.0),
    "nansum": of_values(lambda y: y.nansum(-1), NAN, 1.0, 2.0),
    "nanmean": of_values(lambda y: y.nanmean(-1), NAN, 1.0, 2.0),
    "where hides not a number": of_values(
        lambda y: torch.where(y > 0, y, torch.zeros_like(y)).sqrt(), -1.0, 1.0, 4.0
    ),
    "round half to even": of_values(lambda y: y * y.round(), 0.5, 1.5, 2.5, -0.5),
    "round (decimals)": of_values(lambda y: y * y.round(decimals=1), 0.25, 0.35, 1.26),
    "remainder of negatives": of_values(lambda y: y * (y % 3), -4.0, -3.0, 2.0, 4.0),
    "fmod of negatives": of_values(lambda y: y * torch.fmod(y, 3), -4.0, -3.0, 2.0, 4.0),
    "floor_divide of negatives": of_values(lambda y: y * (y.detach() // 3), -4.0, -3.0, 2.0, 4.0),
    "integer floor_divide of negatives": of_values(
        lambda y: y * (y.long() // 3), -4.0, -3.0, 2.0, 4.0
    ),
    "integer remainder of negatives": of_values(lambda y: y * (y.long() % 3), -4.0, -3.0, 2.0, 4.0),
    "integer div (trunc) of negatives": of_values(
        lambda y: y * torch.div(y.long(), 3, rounding_mode="trunc"), -4.0, -3.0, 2.0, 4.0
    ),
    "integer div": of_values(lambda y: y * (y.long() / 3), -4.0, -3.0, 2.0, 4.0),
    "integer pow": of_values(lambda y: y * (y.long() ** 2), -4.0, -3.0, 2.0, 4.0),
    "integer mean": of_values(lambda y: y * y.long().float().mean(), -4.0, -3.0, 2.0, 4.0),
    "integer sum of bool": of_values(lambda y: y * (y > 0).sum(-1, keepdim=True), -4.0, 3.0, 2.0),
    "integer max": of_values(lambda y: y * y.long().max(), -4.0, -3.0, 2.0, 4.0),
    "integer cumsum": of_values(lambda y: y * y.long().cumsum(-1), -4.0, -3.0, 2.0, 4.0),
    "to integers of negatives": of_values(lambda y: y * y.long(), -1.7, -0.3, 0.3, 1.7),
}
REFUSED: dict[str, str] = {
    **dict.fromkeys(
        ("threshold at it",), "the exporter cannot export the operator threshold: non-z"
    ),
    **dict.fromkeys(
        (
            "prelu at 0",
            "prod with a 0",
            "prod with two 0",
            "fmod of negatives",
        ),
        "no gradient for the operator",
    ),
    **dict.fromkeys(
        ("pow (tensor) at 0",), "the exporter cannot export the operator pow: an exponent"
    ),
    **dict.fromkeys(("0 to a tensor",), "the exporter cannot export the operator pow: a base that"),
    **dict.fromkeys(
        ("sort of equals",), "the exporter cannot export the operator Sort: Out parame"
    ),
    **dict.fromkeys(
        (
            "logsumexp, large",
            "logsumexp of -inf",
        ),
        "onnxruntime",
    ),
    **dict.fromkeys(
        (
            "cumprod with a 0",
            "nansum",
            "nanmean",
        ),
        "no ONNX form for the operator",
    ),
}
DIFFERS: dict[str, str] = {
    "pow (0) at 0": "the gradient of x ** 0 at 0 is not a number, and 0 in PyTorch",
    "maximum of not a number": "the gradient is not a number, and the other's in PyTorch",
}
