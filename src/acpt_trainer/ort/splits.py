"""Parts of a tensor of which only some are used get their gradient in the right places.

ONNX Runtime's gradient of `Split` joins the gradients of the parts that have one and leaves the
others out: what comes out is too short, which stops the backward pass or is stretched in silence.
So parts with a gradient are slices of the tensor, and parts without one are parts of a cut (see
`cuts`): slices that cover the whole tensor would be made a `Split` again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort.cuts import is_stop
from acpt_trainer.ort.passes import run_around_gradients, taken

_NUMBERLESS = frozenset(
    """
    Shape Size Equal Less LessOrEqual Greater GreaterOrEqual Not And Or Xor ArgMax ArgMin NonZero
    IsNaN IsInf OneHot Range ConstantOfShape Constant Shrink Sign Floor Ceil Round
    """.split()  # noqa: SIM905
)
"""Operators that no gradient goes through; `Shrink` is a cut, see `cuts`."""

_FIRST_ONLY = frozenset(
    """
    Reshape Expand Slice Tile Pad Unsqueeze Squeeze ReduceSum ReduceMean Gather GatherElements
    Split CumSum TopK Resize Clip Dropout
    """.split()  # noqa: SIM905
)
"""Operators that a gradient goes through to their first input alone."""

_PICKS = ("Slice", "Gather")
_APART = "_apart"
_FLOATS = (1, 10, 11, 16)  # onnx.TensorProto.DataType


def mend_splits(stack: ExitStack) -> None:
    """Looks at the parts of tensors before the gradient is built, and at what came of it."""
    run_around_gradients(
        stack,
        lambda info: set_apart(info._post_export_processed_model.graph),
        refuse_short_gradients,
    )


def set_apart(graph: Any) -> None:
    """Separates the parts of a tensor that have a gradient from those that have none.

    Args:
        graph: The exported `onnx.GraphProto`, changed in place.
    """
    kinds = _kinds(graph)
    with_gradient = {n for n in _with_gradient(graph) if kinds.get(n, _FLOATS[0]) in _FLOATS}
    picked = {
        node.input[0]
        for node in graph.node
        if node.op_type in _PICKS and node.output[0] in with_gradient and node.input[0] in kinds
    }
    consumed = {name for node in graph.node for name in taken(node)}
    nodes: list[Any] = []
    for node in graph.node:
        parts = [name in with_gradient for name in node.output]
        if node.op_type == "Split" and any(parts) and not all(parts):
            nodes += _slices(node, parts, consumed)
        elif node.op_type in _PICKS and not any(parts) and node.input[0] in picked & with_gradient:
            nodes += [_cut(node.input[0], node.output[0]), _from_cut(node)]
        else:
            nodes.append(node)
    for node in [n for n in nodes if n.op_type == "Shrink" and n.output[0].endswith(_APART)]:
        kind = kinds.get(node.input[0], _FLOATS[0])  # which ONNX Runtime must be told of a cut
        graph.value_info.append(_of_kind(node.output[0], kind))
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def refuse_short_gradients(graph: Any) -> None:
    """Raises if the gradient of a split still leaves parts out (of an `onnx.GraphProto`)."""
    joined = [set(node.input) for node in graph.node if node.op_type == "Concat"]
    for node in graph.node:
        if node.op_type != "Split":
            continue
        gradients = {f"{name}_grad" for name in node.output}
        if any(names & gradients and not names >= gradients for names in joined):
            raise GraphBuildError(
                f"only some of the {len(node.output)} parts of {node.name} have a gradient, which "
                "ONNX Runtime would put in the wrong place: slice the tensor instead"
            )


def _with_gradient(graph: Any) -> set[str]:
    """The values that a gradient comes back to from the graph's outputs."""
    found = {output.name for output in graph.output}
    for node in reversed(graph.node):  # sorted: what takes an output comes after
        if found.intersection(node.output):
            found.update(_differentiated(node))
    return found


def _differentiated(node: Any) -> Iterator[str]:
    kind = node.op_type
    if kind in _NUMBERLESS or is_stop(node):
        return
    if kind == "Cast" and node.attribute[0].i not in _FLOATS:
        return
    if kind in _FIRST_ONLY:
        yield node.input[0]
    elif kind == "Where":
        yield from node.input[1:]
    else:
        yield from taken(node)


def _cut(name: str, of: str) -> Any:
    import onnx

    return onnx.helper.make_node("Shrink", [name], [of + _APART], bias=0.0, lambd=0.0)


def _kinds(graph: Any) -> dict[str, int]:
    """What numbers the values are, where that is known, as `onnx.TensorProto.DataType`."""
    known = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input)}
    return known | {tensor.name: tensor.data_type for tensor in graph.initializer}


def _of_kind(name: str, kind: int) -> Any:
    import onnx

    return onnx.helper.make_tensor_value_info(name, kind, None)


def _from_cut(node: Any) -> Any:
    apart = type(node).FromString(node.SerializeToString())
    apart.input[0] = node.output[0] + _APART
    return apart


def _slices(split: Any, with_gradient: list[bool], consumed: set[str]) -> Iterator[Any]:
    """What stands for a split: a slice a part, between the sums of the sizes before and with it."""
    import onnx

    name = split.name

    def make(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        # ONNX Runtime names what it makes of nodes after them.
        return onnx.helper.make_node(kind, inputs, [output], name=f"{output}/{kind}", **attributes)

    axis = next((a.i for a in split.attribute if a.name == "axis"), 0)

    def numbers(what: str, values: list[int]) -> Any:
        tensor = onnx.helper.make_tensor(what, onnx.TensorProto.INT64, [len(values)], values)
        return make("Constant", [], what, value=tensor)

    if len(split.input) < 2:
        raise GraphBuildError(f"only some of the parts of {name} are used, of unknown sizes")
    source, sizes = split.input[0], split.input[1]
    yield numbers(f"{name}/zero", [0])
    yield numbers(f"{name}/axis", [axis])
    yield make("CumSum", [sizes, f"{name}/zero"], f"{name}/ends")
    yield make("Sub", [f"{name}/ends", sizes], f"{name}/starts")
    used = [i for i, output in enumerate(split.output) if with_gradient[i] or output in consumed]
    if not all(with_gradient[i] for i in used):
        yield _cut(source, name)
    for i in used:
        output = split.output[i]
        yield numbers(f"{output}/number", [i])
        bounds = [f"{output}/start", f"{output}/end"]
        for what, bound in zip(("starts", "ends"), bounds, strict=True):
            yield make("Gather", [f"{name}/{what}", f"{output}/number"], bound)
        taken = source if with_gradient[i] else name + _APART
        yield make("Slice", [taken, *bounds, f"{name}/axis"], output)
