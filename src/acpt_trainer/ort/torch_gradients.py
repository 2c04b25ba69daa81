"""Gradients on a CPU that PyTorch's kernels compute instead of ONNX Runtime's.

Those of 1.19.2 go through their elements one by one, most of them on one thread. PyTorch's are
vectorized and run on all threads. How much that is: `benchmarks/ort_kernels.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, TypeAlias

import torch

from acpt_trainer.ort import torch_calls
from acpt_trainer.ort.passes import replace_nodes, run_after_gradients

Tensor: TypeAlias = torch.Tensor
_aten = torch.ops.aten


def use_torch(stack: ExitStack) -> None:
    """Lets training graphs compute them with PyTorch until the stack is closed."""
    run_after_gradients(stack, rewrite)


def rewrite(graph: Any) -> None:
    """Replaces them in a training graph.

    Args:
        graph: The `onnx.GraphProto`, changed in place.
    """
    floats = torch_calls.floats(graph)
    replaced = {}
    for node in graph.node:
        function = KERNELS.get(node.op_type)
        if function is not None and floats.issuperset(node.output):
            stated = {a.name: a.i for a in node.attribute if a.name == "axis"}
            name = "_".join(("acpt", node.op_type, *map(str, stated.values())))
            torch_calls.engage(name, partial(function, **stated))
            replaced[node.output[0]] = [torch_calls.node(name, node.input, *node.output)]
    replace_nodes(graph, replaced)


def gelu(gradient: Tensor, x: Tensor) -> Tensor:
    """Of x (1 + erf(x / √2)) / 2."""
    return _aten.gelu_backward(gradient, x)


def gelu_by_tanh(gradient: Tensor, x: Tensor) -> Tensor:
    """Of GELU's approximation by tanh."""
    return _aten.gelu_backward(gradient, x, approximate="tanh")


def layer_norm(
    gradient: Tensor, x: Tensor, weight: Tensor, mean: Tensor, rate: Tensor, axis: int = -1
) -> tuple[Tensor, ...]:
    """Of what is normalized, of the weight and of the bias.

    Args:
        gradient: Of the result.
        x: What was normalized.
        weight: Of the shape that was normalized over.
        mean: Of each row.
        rate: One over the standard deviation of each row.
        axis: The first of the axes normalized over, which `weight` has too.
    """
    shape = list(weight.shape)
    found: tuple[Tensor, ...] = _aten.native_layer_norm_backward(
        gradient, x, shape, mean, rate, weight, weight, [True, True, True]
    )  # of the bias only its presence counts
    return found


def softmax(gradient: Tensor, y: Tensor, axis: int = -1) -> Tensor:
    """Of the softmax y."""
    return torch._softmax_backward_data(gradient, y, axis, y.dtype)


def log_softmax(gradient: Tensor, y: Tensor, axis: int = -1) -> Tensor:
    """Of the logarithms y of a softmax."""
    return torch._log_softmax_backward_data(gradient, y, axis, y.dtype)


def look_up(shape: Tensor, index: Tensor, gradient: Tensor, axis: int = 0) -> Tensor:
    """Of what slices were looked up in, by `index` along an axis; negative ones count from its end.

    Args:
        shape: Of what they were looked up in.
        index: Of any shape.
        gradient: Of the slices; the shape of `index` is in place of the axis.
        axis: The axis.
    """
    sizes = shape.tolist()
    axis %= len(sizes)
    rows = gradient.reshape(*sizes[:axis], index.numel(), *sizes[axis + 1 :])
    places = index.reshape(-1).remainder(sizes[axis])
    return gradient.new_zeros(sizes).index_add_(axis, places, rows)


def gather(gradient: Tensor, shape: Tensor, index: Tensor, axis: int = 0) -> Tensor:
    """Of what elements were picked from, by `index` along an axis."""
    return gradient.new_zeros(shape.tolist()).scatter_add_(axis, index.long(), gradient)


KERNELS: Mapping[str, Callable[..., Tensor | tuple[Tensor, ...]]] = {
    "GeluGrad": gelu,
    "FastGeluGrad": gelu_by_tanh,
    "LayerNormalizationGrad": layer_norm,
    "SoftmaxGrad_13": softmax,
    "LogSoftmaxGrad_13": log_softmax,
    "GatherGrad": look_up,
    "GatherElementsGrad": gather,
}
"""What takes a kernel's inputs and its attribute `axis`, and returns its outputs."""
