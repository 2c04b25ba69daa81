"""Where a gradient ends, ONNX Runtime's gradient graph ends too.

ONNX Runtime builds a gradient for every operator between an output and a trained parameter, and
knows no operator for a float at which it may stop. A gradient of zero is not the same: behind it
all is still differentiated, which fails at an operator without a gradient (the norm of DoRA) and
makes NaN of zero times infinity (the square root of zero). It does stop at an ATen operator that is
registered so. A cut is one while the gradient graph is built; before and after, it can run.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from acpt_trainer.ort.mends import set_attribute
from acpt_trainer.ort.passes import run_around_gradients, taken

_DOMAIN, _STOP = "org.pytorch.aten", "detach"


def cut(g: Any, value: Any) -> Any:
    """The same value, at which the gradient ends, for symbolics.

    In the export it is `Shrink`, the identity for bias 0 and threshold 0, which nothing else
    exports.
    """
    stopped = g.op("Shrink", value, lambd_f=0.0, bias_f=0.0)
    stopped.setType(value.type())
    return stopped


def end_gradients(stack: ExitStack) -> None:
    """Lets the gradient builder stop at the cuts."""
    gradients = importlib.import_module(
        "onnxruntime.training.ortmodule._custom_gradient_registry"
    ).CustomGradientRegistry
    key = "::".join((_DOMAIN, "ATen", _STOP, ""))  # registered when an ORTModule is constructed
    stops = {**gradients._STOP_GRADIENT_EDGES, key: {0}}
    set_attribute(stack, gradients, "_STOP_GRADIENT_EDGES", stops)
    run_around_gradients(
        stack,
        lambda info: put_stops(
            info._post_export_processed_model, info.onnx_graph_input_names_require_grad
        ),
        take_stops_out,
    )


def put_stops(model: Any, trained: Iterable[str]) -> None:
    """Makes a stop of each cut that a gradient would go through, and nothing of the others.

    Args:
        model: The exported `onnx.ModelProto`, changed in place.
        trained: The inputs that need a gradient.
    """
    import onnx

    weights = set(trained)
    reached = set(weights)
    found = False
    for node in list(model.graph.node):  # sorted: what a node takes was made before
        stops = reached.intersection(taken(node))
        if not _is_cut(node):
            reached.update(node.output if stops else ())
            continue
        del node.attribute[:]
        node.op_type = "ATen" if stops else "Identity"
        if stops:
            found, node.domain = True, _DOMAIN
            if node.input[0] in weights:
                _set_apart(model.graph, node)
            node.attribute.append(onnx.helper.make_attribute("operator", _STOP))
    if found and all(known.domain != _DOMAIN for known in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(_DOMAIN, 1))


def _set_apart(graph: Any, stop: Any) -> None:
    """Puts a node between a weight and a stop: the builder asks of nodes alone where it ends."""
    import onnx

    apart = f"{stop.output[0]}_weight"
    between = onnx.helper.make_node("Identity", [stop.input[0]], [apart])
    stop.input[0] = apart
    graph.node.insert(list(graph.node).index(stop), between)


def take_stops_out(graph: Any) -> None:
    """Makes nodes that run of the stops in a training graph (an `onnx.GraphProto`)."""
    for node in graph.node:
        if is_stop(node):
            node.op_type, node.domain = "Identity", ""
            del node.attribute[:]


def is_stop(node: Any) -> bool:
    """Whether a node is a cut at which the gradient builder stops."""
    return node.op_type == "ATen" and any(a.s == _STOP.encode() for a in node.attribute)


def _is_cut(node: Any) -> bool:
    return node.op_type == "Shrink" and all(a.f == 0.0 for a in node.attribute)
