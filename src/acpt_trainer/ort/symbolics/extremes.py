"""The largest and the smallest: `ReduceMax` and `ReduceMin` have no gradient."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from acpt_trainer.ort.cuts import cut
from acpt_trainer.ort.symbolics import values


def _selected(g: Any, self: Any, arg: str, axis: int, keep: bool) -> tuple[Any, Any]:
    """The extreme along one axis, taken from where it is: the gradient goes there."""
    import torch

    indices = g.op(arg, self, axis_i=axis, keepdims_i=1)
    found = g.op("GatherElements", self, indices, axis_i=axis)
    if keep:
        return found, indices
    axes = values.constant(g, [axis], torch.int64)
    return g.op("Squeeze", found, axes), g.op("Squeeze", indices, axes)


def shared(g: Any, self: Any, reduce: str, axes: list[int], keep: bool) -> Any:
    """The extreme over several axes; equal ones share its gradient, as in PyTorch."""
    import torch

    attributes = {"axes_i": axes} if axes else {}
    extreme = g.op(reduce, cut(g, self), **attributes)
    dtype = values.scalar_type(self).dtype()
    mine = g.op("Equal", self, extreme)
    zero = g.op("Expand", values.constant(g, 0.0, dtype), g.op("Shape", self))
    count = g.op("Cast", mine, to_i=values.scalar_type(self).onnx_type())
    given = [values.constant(g, axes, torch.int64)] if axes else []
    kept = {"keepdims_i": int(keep)}
    total = g.op("ReduceSum", g.op("Where", mine, self, zero), *given, **kept)
    return g.op("Div", total, g.op("ReduceSum", count, *given, **kept))


def extreme(name: str) -> Callable[..., Any]:
    """`max` or `min`: of all elements, along an axis, or of two tensors."""
    arg, reduce = {"max": ("ArgMax", "ReduceMax"), "min": ("ArgMin", "ReduceMin")}[name]

    def symbolic(g: Any, self: Any, dim_or_other: Any = None, keepdim: Any = None) -> Any:
        helper = values.helper()
        if not values.is_floating(self) or (dim_or_other is not None and keepdim is None):
            module = "torch.onnx._internal.torchscript_exporter.symbolic_opset9"
            return getattr(importlib.import_module(module), name)(g, self, dim_or_other, keepdim)
        if dim_or_other is None:
            return shared(g, self, reduce, [], False)
        axis = helper._maybe_get_const(dim_or_other, "i")
        return _selected(g, self, arg, axis, bool(helper._maybe_get_const(keepdim, "i")))

    return symbolic


def along(reduce: str) -> Callable[..., Any]:
    """`amax` or `amin`."""

    def symbolic(g: Any, self: Any, dim: Any, keepdim: Any) -> Any:
        helper = values.helper()
        axes = list(helper._maybe_get_const(dim, "is"))
        keep = bool(helper._maybe_get_const(keepdim, "i"))
        if not values.is_floating(self):
            return g.op(reduce, self, axes_i=axes, keepdims_i=int(keep))
        return shared(g, self, reduce, axes, keep)

    return symbolic
