"""Normalization whose gradient ONNX Runtime has."""

from __future__ import annotations

import importlib
from typing import Any

from acpt_trainer.ort.symbolics import values


def linalg_norm(g: Any, self: Any, order: Any, dim: Any, keepdim: Any, dtype: Any) -> Any:
    """See `vector_norm`; without an order it is the Euclidean one, of a matrix too."""
    import torch

    if not values.given(order):
        order = g.op("Constant", value_t=torch.tensor(2.0))
        return vector_norm(g, self, order, dim, keepdim, dtype)
    axes = values.helper()._maybe_get_const(dim, "is")
    if isinstance(axes, (list, tuple)) and len(axes) == 1:
        return vector_norm(g, self, order, dim, keepdim, dtype)
    opset9 = importlib.import_module("torch.onnx._internal.torchscript_exporter.symbolic_opset9")
    return opset9.linalg_norm(g, self, order, dim, keepdim, dtype)


def vector_norm(g: Any, self: Any, order: Any, dim: Any, keepdim: Any, dtype: Any) -> Any:
    """Euclidean norm; the gradient of `ReduceL2` holds only where its axes are named and kept."""
    import torch

    helper = values.helper()
    rank, axes = helper._get_tensor_rank(self), helper._maybe_get_const(dim, "is")
    if helper._maybe_get_const(order, "f") != 2 or not rank or values.given(dtype):
        module = "torch.onnx._internal.torchscript_exporter.symbolic_opset11"
        exporters = importlib.import_module(module).linalg_vector_norm
        return exporters(g, self, order, dim, keepdim, dtype)
    axes = list(axes) if isinstance(axes, (list, tuple)) and axes else list(range(rank))
    out = g.op("ReduceL2", self, axes_i=axes, keepdims_i=1)
    if helper._maybe_get_const(keepdim, "b"):
        return out
    return g.op("Squeeze", out, values.constant(g, axes, torch.int64))


def group_norm(
    g: Any, input: Any, groups: Any, weight: Any, bias: Any, epsilon: Any, *flags: Any
) -> Any:
    """Group normalization from means, which have gradients.

    The exporter's own is `InstanceNormalization`, and no gradient of it is registered.
    """
    return _normalized(
        g, input, values.helper()._maybe_get_const(groups, "i"), weight, bias, epsilon
    )


def _normalized(g: Any, input: Any, number: int, weight: Any, bias: Any, epsilon: Any) -> Any:
    import torch

    helper = values.helper()
    rank = helper._get_tensor_rank(input)
    grouped = g.op("Reshape", input, values.constant(g, [0, number, -1], torch.int64))
    centred = g.op("Sub", grouped, g.op("ReduceMean", grouped, axes_i=[2]))
    variance = g.op("ReduceMean", g.op("Mul", centred, centred), axes_i=[2])
    dtype = values.scalar_type(input).dtype()
    small = values.constant(g, helper._maybe_get_const(epsilon, "f"), dtype)
    scaled = g.op("Div", centred, g.op("Sqrt", g.op("Add", variance, small)))
    out = g.op("Reshape", scaled, g.op("Shape", input))
    axes = list(range(1, rank - 1))  # a value a channel: one dimension for each after it
    if values.given(weight):
        out = g.op("Mul", out, helper._unsqueeze_helper(g, weight, axes) if axes else weight)
    if values.given(bias):
        out = g.op("Add", out, helper._unsqueeze_helper(g, bias, axes) if axes else bias)
    out.setType(input.type())
    return out


def instance_norm(
    g: Any,
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_variance: Any,
    use_input_statistics: Any,
    momentum: Any,
    epsilon: Any,
    *flags: Any,
) -> Any:
    """Instance normalization: a group a channel."""
    helper = values.helper()
    if values.given(running_mean) or not helper._maybe_get_const(use_input_statistics, "i"):
        return helper._unimplemented("instance_norm", "running statistics")
    return _normalized(g, input, 0, weight, bias, epsilon)  # 0: as many groups as channels


def layer_norm(
    g: Any, input: Any, normalized_shape: Any, weight: Any, bias: Any, epsilon: Any, *flags: Any
) -> Any:
    """Layer normalization with ones for a missing weight and zeros for a missing bias.

    ORTModule leaves them out; the gradient of what is not there is an invalid node or a crash.
    """
    import torch

    helper = values.helper()
    shape = helper._maybe_get_const(normalized_shape, "is")
    dtype = values.scalar_type(input).dtype()
    if not values.given(weight):
        weight = g.op("Constant", value_t=torch.ones(shape, dtype=dtype))
    if not values.given(bias):
        bias = g.op("Constant", value_t=torch.zeros(shape, dtype=dtype))
    out, _, _ = g.op(
        "LayerNormalization",
        input,
        weight,
        bias,
        epsilon_f=helper._maybe_get_const(epsilon, "f"),
        axis_i=-len(shape),
        outputs=3,
    )
    out.setType(input.type())
    return out


def rms_norm(g: Any, input: Any, normalized_shape: Any, weight: Any, epsilon: Any) -> Any:
    """`rms_norm`, which has no ONNX form before operator set 23."""
    import torch

    helper = values.helper()
    axes = list(range(-len(helper._maybe_get_const(normalized_shape, "is")), 0))
    dtype = values.scalar_type(input).dtype()
    small = torch.finfo(dtype).eps
    if values.given(epsilon):
        small = helper._maybe_get_const(epsilon, "f")
    mean = g.op("ReduceMean", g.op("Mul", input, input), axes_i=axes)
    root = g.op("Sqrt", g.op("Add", mean, values.constant(g, small, dtype)))
    out = g.op("Div", input, root)
    if values.given(weight):
        out = g.op("Mul", out, weight)
    out.setType(input.type())
    return out


def batch_norm(
    g: Any,
    input: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    training: Any,
    momentum: Any,
    eps: Any,
    cudnn_enabled: Any,
) -> Any:
    """Batch normalization as what it is: a scale and a shift.

    ONNX Runtime takes every `BatchNormalization` of a training graph for one that is training, and
    updates running statistics otherwise than PyTorch: refused.
    """
    import torch

    helper = values.helper()
    rank, kind = helper._get_tensor_rank(input), values.scalar_type(input).dtype()
    if training := helper._maybe_get_const(training, "b"):
        if values.given(mean):
            return helper._unimplemented("batch_norm", "running statistics")
        axes = [0, *range(2, rank)]
        input = g.op("Sub", input, g.op("ReduceMean", input, axes_i=axes))
        squares = g.op("ReduceMean", g.op("Mul", input, input), axes_i=axes)
        variance = g.op("Squeeze", squares, values.constant(g, axes, torch.int64))
    epsilon = values.constant(g, helper._maybe_get_const(eps, "f"), kind)
    scale = g.op("Reciprocal", g.op("Sqrt", g.op("Add", variance, epsilon)))
    if values.given(weight):
        scale = g.op("Mul", scale, weight)
    shift = bias if values.given(bias) else values.constant(g, [0.0], kind)
    if not training:
        shift = g.op("Sub", shift, g.op("Mul", mean, scale))
    axes = values.constant(g, list(range(1, rank - 1)), torch.int64)
    scale, shift = (g.op("Unsqueeze", v, axes) for v in (scale, shift))
    return g.op("Add", g.op("Mul", input, scale), shift)
