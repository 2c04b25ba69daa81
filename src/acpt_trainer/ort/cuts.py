"""Where a gradient ends, ONNX Runtime's gradient graph ends too.

ONNX Runtime builds a gradient for every operator between an output and a trained parameter, and
knows no operator for a float at which it may stop. A gradient of zero is not the same: behind it
all is still differentiated, which fails at an operator without a gradient (the norm of DoRA) and
makes NaN of zero times infinity (the square root of zero). It does stop at an ATen operator that is
registered so. A cut is one while the gradient graph is built; before and after, it can run.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from typing import Any

from acpt_trainer.ort.mends import set_attribute

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
    ortmodule = "onnxruntime.training.ortmodule"
    gradients = importlib.import_module(
        f"{ortmodule}._custom_gradient_registry"
    ).CustomGradientRegistry
    manager = importlib.import_module(f"{ortmodule}._graph_execution_manager").GraphExecutionManager
    optimizers = importlib.import_module(
        f"{ortmodule}.graph_optimizer_registry"
    ).GraphOptimizerRegistry
    initialize = manager._initialize_graph_builder

    @functools.wraps(initialize)
    def initialize_graph_builder(self: Any, info: Any) -> None:
        put_stops(info._post_export_processed_model, info.onnx_graph_input_names_require_grad)
        initialize(self, info)

    key = "::".join((_DOMAIN, "ATen", _STOP, ""))  # registered when an ORTModule is constructed
    stops = {**gradients._STOP_GRADIENT_EDGES, key: {0}}
    functions = dict(optimizers._OPTIMIZER_FUNCS)
    functions["all"] = [*functions.get("all", []), (take_stops_out, "all", 0)]
    set_attribute(stack, gradients, "_STOP_GRADIENT_EDGES", stops)
    set_attribute(stack, manager, "_initialize_graph_builder", initialize_graph_builder)
    set_attribute(stack, optimizers, "_OPTIMIZER_FUNCS", functions)


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
        stops = reached.intersection(_taken(node))
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
        if node.op_type == "ATen" and any(a.s == _STOP.encode() for a in node.attribute):
            node.op_type, node.domain = "Identity", ""
            del node.attribute[:]


def _is_cut(node: Any) -> bool:
    return node.op_type == "Shrink" and all(a.f == 0.0 for a in node.attribute)


def _taken(node: Any) -> Iterator[str]:
    """What a node takes, and what the branches of an If or the body of a Loop take."""
    yield from node.input
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for part in inner.node:
                yield from _taken(part)
