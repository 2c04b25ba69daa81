"""Pooling, without the gradients of ONNX Runtime's pooling kernels.

They take the shape of what they return from the graph. Where an axis is dynamic that shape is
empty: `AveragePoolGrad` returns nothing, and `MaxPoolGrad` writes out of bounds: the process dies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from acpt_trainer.ort.symbolics import values


def _numbers(value: Any, rank: int) -> list[int]:
    """A constant for each axis; empty where none was given."""
    given = list(values.helper()._maybe_get_const(value, "is"))
    return given * (rank // len(given)) if given else []


def max_pool(rank: int, with_indices: bool = False) -> Callable[..., Any]:
    """Max pooling over `rank` axes: a `Gather` of the elements that `MaxPool` found.

    PyTorch counts the indices anew in each channel, ONNX through the whole tensor.
    """

    def symbolic(
        g: Any,
        input: Any,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        ceil_mode: Any,
    ) -> Any:
        import torch

        helper = values.helper()
        kernel = _numbers(kernel_size, rank)
        _, found = g.op(
            "MaxPool",
            input,
            kernel_shape_i=kernel,
            strides_i=_numbers(stride, rank) or kernel,
            pads_i=_numbers(padding, rank) * 2,
            dilations_i=_numbers(dilation, rank),
            ceil_mode_i=helper._maybe_get_const(ceil_mode, "b"),
            outputs=2,
        )
        flat = g.op("Reshape", input, values.constant(g, [-1], torch.int64))
        pooled = g.op("Gather", flat, found, axis_i=0)
        if not with_indices:
            return pooled
        axes = helper._slice_helper(g, g.op("Shape", input), axes=[0], starts=[-rank], ends=[2**31])
        return pooled, g.op("Mod", found, g.op("ReduceProd", axes, keepdims_i=0))

    return symbolic


def average_pool(rank: int) -> Callable[..., Any]:
    """Average pooling over `rank` axes: a `Conv` of each channel with equal weights."""

    def symbolic(
        g: Any,
        input: Any,
        kernel_size: Any,
        stride: Any,
        padding: Any,
        ceil_mode: Any,
        count_include_pad: Any,
        divisor_override: Any = None,
    ) -> Any:
        import torch

        helper = values.helper()
        kernel, pads = _numbers(kernel_size, rank), _numbers(padding, rank)
        if helper._maybe_get_const(ceil_mode, "b"):
            return helper._unimplemented("avg_pool", "ceil_mode=True")
        if any(pads) and not helper._maybe_get_const(count_include_pad, "b"):
            return helper._unimplemented("avg_pool", "count_include_pad=False")
        elements = torch.Size(kernel).numel()
        if values.given(divisor_override):
            elements = helper._maybe_get_const(divisor_override, "i")
        dtype = values.scalar_type(input).dtype()
        weights = g.op("Constant", value_t=torch.full((1, 1, *kernel), 1 / elements, dtype=dtype))
        lead = helper._get_tensor_rank(input) - rank
        sizes = g.op("Shape", input)
        axes = helper._slice_helper(g, sizes, axes=[0], starts=[lead], ends=[2**31])
        one = values.constant(g, [-1, 1], torch.int64)
        pooled = g.op(
            "Conv",
            g.op("Reshape", input, g.op("Concat", one, axes, axis_i=0)),
            weights,
            kernel_shape_i=kernel,
            strides_i=_numbers(stride, rank) or kernel,
            pads_i=pads * 2,
        )
        before = helper._slice_helper(g, sizes, axes=[0], starts=[0], ends=[lead])
        after = helper._slice_helper(g, g.op("Shape", pooled), axes=[0], starts=[2], ends=[2**31])
        return g.op("Reshape", pooled, g.op("Concat", before, after, axis_i=0))

    return symbolic


def adaptive_pool(rank: int, kind: str) -> Callable[..., Any]:
    """Pooling to a given size, `max` or `avg`: one window an axis, or windows of equal size.

    The exporter's own ends in the pooling kernels, or in `GlobalMaxPool`, which has no gradient.
    """

    def symbolic(g: Any, input: Any, output_size: Any) -> Any:
        import torch

        helper = values.helper()
        name = f"adaptive_{kind}_pool{rank}d"
        sizes = helper._maybe_get_const(output_size, "is")
        if not isinstance(sizes, (list, tuple)):
            return helper._unimplemented(name, "an output size that is not a constant")
        sizes = list(sizes) * (rank // len(sizes))
        if all(size == 1 for size in sizes):
            axes = list(range(-rank, 0))
            if kind == "avg":
                return g.op("ReduceMean", input, axes_i=axes)
            lead = helper._slice_helper(g, g.op("Shape", input), axes=[0], starts=[0], ends=[-rank])
            rest = values.constant(g, [-1], torch.int64)
            flat = g.op("Reshape", input, g.op("Concat", lead, rest, axis_i=0))
            found = g.op("ArgMax", flat, axis_i=-1, keepdims_i=1)
            pooled = g.op("GatherElements", flat, found, axis_i=-1)
            return tuple(helper._unsqueeze_helper(g, v, axes[1:]) for v in (pooled, found))
        here = [helper._get_tensor_dim_size(input, axis) for axis in range(-rank, 0)]
        if any(a is None or a % size for a, size in zip(here, sizes, strict=True)):
            return helper._unimplemented(name, "an axis of changing size, or not a multiple")
        kernel = [a // size for a, size in zip(here, sizes, strict=True)]
        if kind == "avg":
            return average_pool(rank)(g, input, kernel, kernel, [0], False, True)
        return max_pool(rank, True)(g, input, kernel, kernel, [0], [1], False)

    return symbolic
