"""The gradient of a language model's scores on a CPU, in one pass instead of several.

The scores are a model's largest tensor: a number for each token and word. ONNX Runtime makes the
gradient of their cross entropy of a zero matrix into which the labels are scattered, and of several
passes over that. Then the gradient that PyTorch has of the scores as an output of the model is
added: a second matrix of zeros, where only the loss is used.

Of the loss's gradient d and the logarithms of the softmax s it is -d exp(s), and d more at the
label. So one node of ours writes it once, and what PyTorch has is added only where there is any.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch

from acpt_trainer.ort import reused, torch_calls
from acpt_trainer.ort.passes import readers_of, replace_nodes, run_after_gradients

OPERATOR = "acpt_scores_gradient"

_CHUNK = 2**17
"""Elements written at once: they are in a core's cache when they are scaled."""

_FULL_SHAPE = "full_shape_outputs"


def write_once(stack: ExitStack) -> None:
    """Lets training graphs compute it so until the stack is closed."""
    stack.callback(reused.clear)
    run_after_gradients(stack, rewrite)


def rewrite(graph: Any) -> None:
    """Replaces the gradients of picked logarithms in a training graph.

    Args:
        graph: The `onnx.GraphProto`, changed in place.
    """
    parts = _Parts(graph)
    replaced: dict[str, list[Any]] = {}
    for picked in [node for node in graph.node if node.op_type == "GatherElementsGrad"]:
        found = _of_softmax(picked, parts)
        if found is not None:
            replaced.update(_written_once(picked, found, parts))
    if replaced:
        replace_nodes(graph, replaced)
        torch_calls.engage(OPERATOR, scores_gradient)


def scores_gradient(
    logarithms: torch.Tensor,
    gradient: torch.Tensor,
    label: torch.Tensor,
    outside: torch.Tensor | None = None,
) -> torch.Tensor:
    """The gradient of scores by the logarithms of their softmax that were picked.

    Args:
        logarithms: A row a token, a column a class.
        gradient: Of the picked ones, a column for each that was picked of a row.
        label: Which ones were picked; as large.
        outside: A further gradient of the scores, of as many elements; of none, a single zero.

    Returns:
        As large as the logarithms, in memory that an earlier step may have used.
    """
    out = reused.empty((OPERATOR, logarithms.shape[1]), logarithms.shape, logarithms)
    rows = max(1, _CHUNK // logarithms.shape[1])
    less = -gradient.sum(1, keepdim=True)
    for start in range(0, len(out), rows):
        part = slice(start, start + rows)
        torch.exp(logarithms[part], out=out[part]).mul_(less[part])
    out.scatter_add_(1, label, gradient)
    if outside is not None and outside.dim():
        out += outside.reshape(out.shape)
    return out


def without_shape(graph: Any) -> frozenset[int]:
    """Indices of a training graph's outputs for whose gradient one zero may stand.

    Args:
        graph: The `onnx.GraphProto`.
    """
    found: set[int] = set()
    for node in graph.node:
        if node.op_type == "YieldOp":
            whole = {i for a in node.attribute if a.name == _FULL_SHAPE for i in a.ints}
            found.update(i for i in _differentiable(node) if i not in whole)
    return frozenset(found)


class _Parts:
    """Who makes and who reads each value of a graph."""

    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.made_by = {name: node for node in graph.node for name in node.output}
        self.readers = readers_of(graph)
        self.floats = torch_calls.floats(graph)

    def rank(self, name: str) -> int | None:
        """How many axes a value has, if that is known."""
        of_tensor = (v.type.tensor_type for v in self.graph.value_info if v.name == name)
        return next((len(t.shape.dim) for t in of_tensor if t.HasField("shape")), None)

    def maker(self, name: str, operator: str) -> Any:
        """What makes a value, if it is of a kind."""
        node = self.made_by.get(name)
        return node if node is not None and node.op_type == operator else None

    def only(self, name: str, operator: str) -> Any:
        """The one reader of a value, if it is of a kind."""
        (reader, *more) = self.readers[name] or [None]
        return reader if not more and getattr(reader, "op_type", "") == operator else None


def _of_softmax(picked: Any, parts: _Parts) -> Any:
    """The node that makes a `LogSoftmax`'s gradient of that of ones picked from rows alone."""
    found = parts.only(picked.output[0], "LogSoftmaxGrad_13")
    if found is None or parts.rank(found.input[1]) != 2:
        return None
    last = _axis(picked) in (1, -1) and _axis(found) in (1, -1)
    return found if last and found.output[0] in parts.floats else None


def _written_once(picked: Any, softmax: Any, parts: _Parts) -> dict[str, list[Any]]:
    """What to put in place of nodes, by their first output."""
    from onnx import TensorProto, helper

    inputs, written = [softmax.input[1], picked.input[0], picked.input[2]], softmax.output[0]
    replaced: dict[str, list[Any]] = {node.output[0]: [] for node in (picked, softmax)}
    view = parts.only(written, "Reshape")
    shaped = written if view is None else view.output[0]
    total = parts.only(shaped, "Sum")
    copies = [] if total is None else _of_outside(total, shaped, parts)
    if not copies:
        replaced[written] = [torch_calls.node(OPERATOR, inputs, written)]
        return replaced
    name, result = copies[-1].input[0], total.output[0]
    _take_a_number_for_none(parts.made_by[name], name)
    replaced.update({node.output[0]: [] for node in copies})
    if view is None:
        replaced[result] = [torch_calls.node(OPERATOR, [*inputs, name], result)]
        if result not in parts.floats:
            value = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
            parts.graph.value_info.append(value)  # not inferred of such a node
        return replaced
    replaced[shaped] = []
    replaced[result] = [
        torch_calls.node(OPERATOR, [*inputs, name], written),
        helper.make_node("Reshape", [written, view.input[1]], [result]),
    ]
    return replaced


def _of_outside(total: Any, own: str, parts: _Parts) -> list[Any]:
    """The copies through which the other of two summands is PyTorch's gradient of an output."""
    others = [name for name in total.input if name != own]
    if len(total.input) != 2 or len(others) != 1:
        return []
    copies: list[Any] = []
    name = others[0]
    while len(parts.readers[name]) == 1:
        copy = parts.maker(name, "Identity")
        if copy is None:
            break
        copies.append(copy)
        name = copy.input[0]
    ours = len(parts.readers[name]) == 1 and parts.maker(name, "YieldOp") is not None
    return copies if ours else []


def _take_a_number_for_none(yields: Any, name: str) -> None:
    """Lets one zero stand for the gradient of an output that has none."""
    place = _differentiable(yields)[list(yields.output).index(name)]
    for attribute in yields.attribute:
        if attribute.name == _FULL_SHAPE:
            kept = [i for i in attribute.ints if i != place]
            del attribute.ints[:]
            attribute.ints.extend(kept)


def _differentiable(yields: Any) -> list[int]:
    """Indices of the outputs of which a `YieldOp` gives the gradients."""
    none = {i for a in yields.attribute if a.name == "non_differentiable_outputs" for i in a.ints}
    return [i for i in range(len(yields.input)) if i not in none]


def _axis(node: Any) -> int | None:
    return next((a.i for a in node.attribute if a.name == "axis"), None)
