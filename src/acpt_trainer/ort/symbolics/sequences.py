"""Along one axis: flip, chunk, diff, cumsum, unfold."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from acpt_trainer.ort.symbolics import values


def constant_chunk(upstream: Callable[..., Any]) -> Callable[..., Any]:
    """`chunk` of a known size as a `Split` with constant sizes.

    ORTModule exports sizes computed in the graph, which its gradient builder does not accept.
    """

    def symbolic(g: Any, self: Any, chunks: int, dim: int) -> Any:
        import torch

        size = values.helper()._get_tensor_dim_size(self, dim)
        if size is None or chunks == 1:
            return upstream(g, self, chunks, dim)
        part = -(-size // chunks)
        sizes = [part] * (size // part) + ([size % part] if size % part else [])
        if len(sizes) != chunks:
            return upstream(g, self, chunks, dim)
        return g.op(
            "Split", self, values.constant(g, sizes, torch.int64), axis_i=dim, outputs=chunks
        )

    return symbolic


def diff(g: Any, self: Any, n: Any, dim: Any, prepend: Any = None, append: Any = None) -> Any:
    """`torch.diff`, which has no symbolic; transformers' packed-sequence masks use it."""
    helper = values.helper()
    n, dim = helper._maybe_get_const(n, "i"), helper._maybe_get_const(dim, "i")
    parts = [v for v in (prepend, self, append) if values.given(v)]
    x = g.op("Concat", *parts, axis_i=dim) if len(parts) > 1 else self
    for _ in range(n):
        tail = helper._slice_helper(g, x, axes=[dim], starts=[1], ends=[2**63 - 1])
        head = helper._slice_helper(g, x, axes=[dim], starts=[0], ends=[-1])
        if values.is_bool(self):
            x = g.op("Not", g.op("Equal", tail, head))
        else:
            x = g.op("Sub", tail, head)
    return x


def cumsum(g: Any, self: Any, dim: Any, dtype: Any = None) -> Any:
    """`cumsum` of bool and small integers, for which ONNX Runtime has no kernel: cast first."""
    import torch

    opset11 = importlib.import_module("torch.onnx._internal.torchscript_exporter.symbolic_opset11")
    kind = values.scalar_type(self).name
    if kind in ("FLOAT", "DOUBLE", "INT", "INT64") or (values.given(dtype) and kind != "BOOL"):
        return opset11.cumsum(g, self, dim, dtype)
    target = values.FLOAT if kind in ("HALF", "BFLOAT16") else values.INT64
    axis = dim
    if not values.helper()._is_tensor(dim):
        axis = values.constant(g, values.helper()._maybe_get_const(dim, "i"), torch.int64)
    return g.op("CumSum", g.op("Cast", self, to_i=target), axis)


def unfold(g: Any, self: Any, dimension: Any, size: Any, step: Any) -> Any:
    """`Tensor.unfold` as a `Gather` of windows, for axes of any length.

    The exporter's own needs a known length and puts the windows at the wrong place for an axis
    counted from the end.
    """
    import torch

    helper = values.helper()
    axis, width, stride = (helper._maybe_get_const(v, "i") for v in (dimension, size, step))
    rank = helper._get_tensor_rank(self)
    axis %= rank

    def number(value: int | list[int]) -> Any:
        return values.constant(g, value, torch.int64)

    length = g.op("Gather", g.op("Shape", self), number(axis), axis_i=0)
    last = g.op("Sub", length, number(width - 1))
    starts = g.op("Unsqueeze", g.op("Range", number(0), last, number(stride)), number([1]))
    within = g.op("Constant", value_t=torch.arange(width)[None])
    windows = g.op("Gather", self, g.op("Add", starts, within), axis_i=axis)
    order = [i for i in range(rank + 1) if i != axis + 1]
    return g.op("Transpose", windows, perm_i=[*order, axis + 1])


def repeat_interleave(g: Any, self: Any, repeats: Any, dim: Any = None, size: Any = None) -> Any:
    """`repeat_interleave` by one number as an `Expand` of a new axis.

    The exporter's own splits the axis into its elements, whose number must be known. The number
    may be a size, which a graph knows as it runs: mixtures of experts repeat each token so.
    """
    import torch

    helper = values.helper()
    count = helper._maybe_get_const(repeats, "i")
    if not isinstance(count, int) and helper._get_tensor_rank(count) != 0:
        return helper._unimplemented("repeat_interleave", "a number of repeats for each element")
    if not values.given(dim):
        self = g.op("Reshape", self, values.constant(g, [-1], torch.int64))
    rank = helper._get_tensor_rank(self) if values.given(dim) else 1
    axis = helper._maybe_get_const(dim, "i") % rank if values.given(dim) else 0
    ones = [[1] * (axis + 1), [1] * (rank - axis - 1)]
    if isinstance(count, int):
        wide = values.constant(g, [*ones[0], count, *ones[1]], torch.int64)
    else:
        number = g.op("Reshape", count, values.constant(g, [1], torch.int64))
        parts = [values.constant(g, part, torch.int64) for part in ones if part]
        wide = g.op("Concat", parts[0], number, *parts[1:], axis_i=0)
    repeated = g.op("Expand", helper._unsqueeze_helper(g, self, [axis + 1]), wide)
    sizes = g.op("Shape", self)
    before = helper._slice_helper(g, sizes, axes=[0], starts=[0], ends=[axis])
    after = helper._slice_helper(g, sizes, axes=[0], starts=[axis + 1], ends=[2**31])
    merged = g.op("Concat", before, values.constant(g, [-1], torch.int64), after, axis_i=0)
    return g.op("Reshape", repeated, merged)


def unflatten(g: Any, self: Any, dim: Any, sizes: Any) -> Any:
    """`unflatten` of an axis that is known; the exporter's computes it and loses the rank."""
    helper = values.helper()
    axis = helper._maybe_get_const(dim, "i") % helper._get_tensor_rank(self)
    shape = g.op("Shape", self)
    before = helper._slice_helper(g, shape, axes=[0], starts=[0], ends=[axis])
    after = helper._slice_helper(g, shape, axes=[0], starts=[axis + 1], ends=[2**31])
    return g.op("Reshape", self, g.op("Concat", before, sizes, after, axis_i=0))


def flip(g: Any, self: Any, dims: Any) -> Any:
    """`flip` as `Gather`: the exporter's `Slice` of step -1 fails in its gradient."""
    import torch

    out = self
    for dim in values.helper()._maybe_get_const(dims, "is"):
        size = g.op("Gather", g.op("Shape", self), values.constant(g, dim, torch.int64))
        zero, one = (values.constant(g, v, torch.int64) for v in (0, 1))
        # Not a range of step -1, of which the exporter infers that it is empty.
        back = g.op("Sub", g.op("Sub", size, one), g.op("Range", zero, size, one))
        out = g.op("Gather", out, back, axis_i=dim)
    out.setType(self.type())
    return out


def stacked(axis: int) -> Callable[..., Any]:
    """`hstack` or `vstack` of tensors that are not vectors: the exporter's has no gradient."""

    def symbolic(g: Any, tensors: Any) -> Any:
        helper = values.helper()
        parts = helper._unpack_list(tensors)
        if any((helper._get_tensor_rank(part) or 0) < 2 for part in parts):
            return helper._unimplemented("hstack or vstack", "vectors")
        return g.op("Concat", *parts, axis_i=axis)

    return symbolic


def linspace(g: Any, start: Any, end: Any, steps: Any, dtype: Any, *options: Any) -> Any:
    """`linspace` of a known number of steps; of one that is a size ONNX Runtime dies."""
    helper = values.helper()
    if helper._is_value(steps) and not helper._is_constant(steps):
        return helper._unimplemented("linspace", "a number of steps that is a size")
    opset9 = importlib.import_module("torch.onnx._internal.torchscript_exporter.symbolic_opset9")
    return opset9.linspace(g, start, end, steps, dtype, *options)
