"""Dropout on a CPU: ONNX Runtime's draws and multiplies element by element, on one thread.

So a node of ours draws the mask, sixteen random bits an element, from a generator that each step
seeds (see `forward`), and vectorized operators apply it. The mask takes a byte an element, as
before, and nothing draws it a second time: the backward pass and recompute read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

from acpt_trainer.ort import torch_calls
from acpt_trainer.ort.passes import readers_of, replace_nodes, run_after_gradients

OPERATOR = "acpt_dropout_mask"

RATIOS = (0.01, 0.99)
"""Beyond these, sixteen bits would miss the ratio by more than a thousandth."""

_CHUNK = 2**16
"""Elements drawn at once: their bits stay in a core's cache."""

_DRAWN, _SCALE, _FACTORS, _SHAPE, _MASK = "_drawn", "_scale", "_factors", "_shape", "_mask"

_bits = np.random.SFC64(0)


def seed(number: int) -> None:
    """Starts the generator of the masks anew."""
    global _bits
    _bits = np.random.SFC64(number)


def mask(x: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
    """Draws which elements are kept.

    Args:
        x: Gives the mask its shape.
        ratio: The chance of an element to be dropped, one number.

    Returns:
        1 where an element is kept and 0 where it is dropped, as bytes.
    """
    out = torch.empty(x.shape, dtype=torch.uint8)
    kept = out.numpy().reshape(-1).view(np.bool_)
    bound = np.uint16(round((1 - ratio.item()) * 2**16))
    for start in range(0, kept.size, _CHUNK):
        part = kept[start : start + _CHUNK]
        drawn = _bits.random_raw(-(-part.size // 4)).view(np.uint16)
        np.less(drawn[: part.size], bound, out=part)
    return out


def draw_faster(stack: ExitStack) -> None:
    """Lets training graphs draw so until the stack is closed."""
    run_after_gradients(stack, rewrite)


def rewrite(graph: Any) -> None:
    """Replaces dropout and its gradient in a training graph.

    ONNX Runtime's operator stays where something other than the gradient reads the mask, as where
    random numbers are made of it.

    Args:
        graph: The `onnx.GraphProto`, changed in place.
    """
    from onnx import numpy_helper

    numbers = {i.name: numpy_helper.to_array(i) for i in graph.initializer if not i.dims}
    readers = readers_of(graph)
    replaced: dict[str, list[Any]] = {}
    for node in graph.node:
        if node.op_type != "Dropout" or len(node.output) != 2 or not readers[node.output[0]]:
            continue
        output, mask_name = node.output
        gradients = readers[mask_name]
        if not _drops(node, numbers) or any(_kind(n) != "DropoutGrad" for n in gradients):
            continue
        drawn = mask_name + _DRAWN
        _declare(graph, mask_name, drawn, 1 / (1 - float(numbers[node.input[1]])))
        replaced[output] = _forward(node, drawn)
        for gradient in gradients:
            replaced[gradient.output[0]] = _backward(gradient, drawn)
    if replaced:
        replace_nodes(graph, replaced)
        torch_calls.engage(OPERATOR, mask)


def _drops(node: Any, numbers: Mapping[str, Any]) -> bool:
    """Whether it is known to drop, with a ratio that sixteen bits can tell."""
    if len(node.input) != 3 or any(name not in numbers for name in node.input[1:]):
        return False
    ratio, training = (numbers[name] for name in node.input[1:])
    return bool(training) and RATIOS[0] <= ratio <= RATIOS[1]


def _declare(graph: Any, before: str, drawn: str, scale: float) -> None:
    """Tells the type of a mask, which is not inferred, and what the kept elements are scaled by."""
    from onnx import TensorProto, helper, numpy_helper

    value = helper.make_tensor_value_info(drawn, TensorProto.UINT8, None)
    found = next((v for v in graph.value_info if v.name == before), None)
    if found is not None:
        value.type.tensor_type.shape.CopyFrom(found.type.tensor_type.shape)
        graph.value_info.remove(found)
    graph.value_info.append(value)
    graph.initializer.append(numpy_helper.from_array(np.array(np.float32(scale)), drawn + _SCALE))


def _forward(node: Any, mask_name: str) -> list[Any]:
    x, ratio = node.input[:2]
    drawn = torch_calls.node(OPERATOR, [x, ratio], mask_name)
    return [drawn, *_applied(x, mask_name, mask_name, node.output[0])]


def _backward(node: Any, mask_name: str) -> list[Any]:
    """The same of the gradient.

    The mask becomes factors again only when the gradient, whose shape it takes, is there. Otherwise
    ONNX Runtime would do that early, or keep those of the forward pass, four times as large.
    """
    from onnx import helper

    gradient, output = node.input[0], node.output[0]
    return [
        helper.make_node("Shape", [gradient], [output + _SHAPE]),
        helper.make_node("Reshape", [mask_name, output + _SHAPE], [output + _MASK]),
        *_applied(gradient, output + _MASK, mask_name, output),
    ]


def _applied(x: str, given: str, mask_name: str, output: str) -> list[Any]:
    from onnx import helper

    factors = output + _FACTORS
    return [
        helper.make_node("DequantizeLinear", [given, mask_name + _SCALE], [factors]),
        helper.make_node("Mul", [x, factors], [output]),
    ]


def _kind(reader: Any) -> str:
    """The operator of a node; nothing for an output of the graph."""
    return str(getattr(reader, "op_type", ""))
