"""Spread and distance, whose gradients are zero in PyTorch where the distance is."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from acpt_trainer.ort.symbolics import values


def _opset9() -> Any:
    return importlib.import_module("torch.onnx._internal.torchscript_exporter.symbolic_opset9")


def _root(g: Any, square: Any, like: Any) -> Any:
    """The square root with no gradient at zero: `Sqrt`'s is infinite, and then not a number."""
    square.setType(like.type().with_sizes(None))
    zero, one = (values.constant(g, v, values.scalar_type(like).dtype()) for v in (0, 1))
    flat = g.op("Equal", square, zero)
    return g.op("Where", flat, square, g.op("Sqrt", g.op("Where", flat, one, square)))


def std(g: Any, self: Any, *args: Any) -> Any:
    """Standard deviation, with no gradient where all are equal."""
    variance, _ = _opset9().var_mean(g, self, *args)
    return _root(g, variance, self)


def std_mean(g: Any, self: Any, *args: Any) -> Any:
    """See `std`."""
    variance, mean = _opset9().var_mean(g, self, *args)
    return _root(g, variance, self), mean


def cosine_similarity(g: Any, x1: Any, x2: Any, dim: Any, eps: Any) -> Any:
    """Cosine similarity from vectors of length one, as PyTorch does: of zeros it is zero."""
    helper = values.helper()
    axis, least = helper._maybe_get_const(dim, "i"), helper._maybe_get_const(eps, "f")
    small = values.constant(g, least, values.scalar_type(x1).dtype())
    units = [
        g.op("Div", x, g.op("Max", g.op("ReduceL2", x, axes_i=[axis], keepdims_i=1), small))
        for x in (x1, x2)
    ]
    product = g.op("Mul", *units)
    return helper._reducesum_helper(g, product, axes_i=[axis], keepdims_i=0)


def of_even_powers(name: str) -> Callable[..., Any]:
    """`cdist` or `pairwise_distance`; the exporter takes odd powers of what may be negative."""

    def symbolic(g: Any, x1: Any, x2: Any, p: Any, *rest: Any) -> Any:
        if values.helper()._maybe_get_const(p, "f") % 2:
            return values.helper()._unimplemented(name, "a power that is not even")
        return getattr(_opset9(), name)(g, x1, x2, p, *rest)

    return symbolic
