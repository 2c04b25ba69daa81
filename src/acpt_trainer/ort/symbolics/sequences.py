"""Along one axis: flip, roll, chunk, split, diff, cumsum, unfold, repetition."""

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
    """`repeat_interleave` by one number as an `Expand` of a new axis, by many as a `Gather`.

    The exporter's own splits the axis into its elements, whose number must be known. The number
    may be a size, which a graph knows as it runs: mixtures of experts repeat each token so.
    """
    import torch

    helper = values.helper()
    many = helper._is_value(repeats) and helper._get_tensor_rank(repeats) == 1
    count = repeats if many else helper._maybe_get_const(repeats, "i")
    if not many and not isinstance(count, int) and helper._get_tensor_rank(count) != 0:
        return helper._unimplemented("repeat_interleave", "repeats of a rank that is not known")
    if not values.given(dim):
        self = g.op("Reshape", self, values.constant(g, [-1], torch.int64))
    rank = helper._get_tensor_rank(self) if values.given(dim) else 1
    axis = helper._maybe_get_const(dim, "i") % rank if values.given(dim) else 0
    if many:
        return _repeated_each(g, self, count, axis)
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


def _repeated_each(g: Any, self: Any, repeats: Any, axis: int) -> Any:
    """Each element along an axis as many times as its own number says."""
    import torch

    helper = values.helper()
    zero, one = (values.constant(g, v, torch.int64) for v in (0, 1))
    size = helper._slice_helper(g, g.op("Shape", self), axes=[0], starts=[axis], ends=[axis + 1])
    each = g.op("Expand", g.op("Cast", repeats, to_i=values.INT64), size)
    ends = g.op("CumSum", each, zero)
    total = helper._reducesum_helper(g, each, axes_i=[0], keepdims_i=0)
    at = helper._unsqueeze_helper(g, g.op("Range", zero, total, one), [1])
    passed = g.op("Cast", g.op("LessOrEqual", ends, at), to_i=values.INT64)
    element = helper._reducesum_helper(g, passed, axes_i=[1], keepdims_i=0)
    return g.op("Gather", self, element, axis_i=axis)


def unflatten(g: Any, self: Any, dim: Any, sizes: Any) -> Any:
    """`unflatten` of an axis that is known; the exporter's computes it and loses the rank."""
    helper = values.helper()
    axis = helper._maybe_get_const(dim, "i") % helper._get_tensor_rank(self)
    shape = g.op("Shape", self)
    before = helper._slice_helper(g, shape, axes=[0], starts=[0], ends=[axis])
    after = helper._slice_helper(g, shape, axes=[0], starts=[axis + 1], ends=[2**31])
    return g.op("Reshape", self, g.op("Concat", before, sizes, after, axis_i=0))


def tensor_split(g: Any, self: Any, where: Any, dim: Any) -> Any:
    """`tensor_split` as slices; the shapes of the exporter's cannot be inferred.

    Into parts whose number is known, or at places that are numbers. Of n parts the first
    `size % n` are longer by one.
    """
    import torch

    helper = values.helper()
    dim = helper._maybe_get_const(dim, "i")

    def number(value: int) -> Any:
        return values.constant(g, [value], torch.int64)

    places = _places_of(where)
    if places is None:
        return helper._unimplemented(
            "tensor_split", "places or a number of parts that are computed"
        )
    if isinstance(places, list):
        starts = [number(0), *map(number, places)]
        ends = [*map(number, places), number(2**63 - 1)]
    else:
        parts = places
        size = g.op("Gather", g.op("Shape", self), number(dim))
        each = g.op("Div", size, number(parts))
        longer = g.op("Mod", size, number(parts))
        edges = [
            g.op("Add", g.op("Mul", each, number(n)), g.op("Min", longer, number(n)))
            for n in range(parts + 1)
        ]
        starts, ends = edges[:-1], edges[1:]
    pairs = zip(starts, ends, strict=True)
    slices = [g.op("Slice", self, start, end, number(dim)) for start, end in pairs]
    return g.op("prim::ListConstruct", *slices)  # what is taken from the list unpacks it again


def _places_of(value: Any) -> int | list[int] | None:
    """A constant number, or constant numbers; None if they are computed."""
    helper = values.helper()
    if helper._is_packed_list(value):
        items = [_places_of(v) for v in helper._unpack_list(value)]
        return None if None in items else items  # type: ignore[return-value]
    found = helper._maybe_get_const(value, "t")
    return None if helper._is_value(found) else found.tolist()  # type: ignore[no-any-return]


def roll(g: Any, self: Any, shifts: Any, dims: Any) -> Any:
    """`roll` by any number, along axes or the whole.

    The exporter's knows no shift beyond the size, of which it makes none at all, and no whole.
    """
    import torch

    helper = values.helper()
    shifts, dims = (helper._maybe_get_const(v, "is") for v in (shifts, dims))
    out = self if dims else g.op("Reshape", self, values.constant(g, [-1], torch.int64))
    for shift, dim in zip(shifts, dims or [0], strict=True):
        first, one, end, axis = (
            values.constant(g, [v], torch.int64) for v in (0, 1, 2**63 - 1, dim)
        )
        size = g.op("Max", g.op("Gather", g.op("Shape", out), axis), one)
        start = g.op("Mod", values.constant(g, [-shift], torch.int64), size)
        parts = [g.op("Slice", out, start, end, axis), g.op("Slice", out, first, start, axis)]
        out = g.op("Concat", *parts, axis_i=dim)
    out = out if dims else g.op("Reshape", out, g.op("Shape", self))
    out.setType(self.type())
    return out


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
