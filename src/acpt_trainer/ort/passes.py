"""Passes over a graph, before its gradient is built and after."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

from acpt_trainer.ort.mends import set_attribute


def run_around_gradients(
    stack: ExitStack, before: Callable[[Any], None], after: Callable[[Any], None]
) -> None:
    """Lets ORTModule run two passes until the stack is closed.

    Args:
        stack: Takes the passes out again.
        before: Given ORTModule's `PostExportProcessedModelInfo`, which holds the exported model.
        after: Given the training graph, an `onnx.GraphProto`.
    """
    ortmodule = "onnxruntime.training.ortmodule"
    manager = importlib.import_module(f"{ortmodule}._graph_execution_manager").GraphExecutionManager
    optimizers = importlib.import_module(
        f"{ortmodule}.graph_optimizer_registry"
    ).GraphOptimizerRegistry
    initialize = manager._initialize_graph_builder

    @functools.wraps(initialize)
    def initialize_graph_builder(self: Any, info: Any) -> None:
        before(info)
        initialize(self, info)

    functions = dict(optimizers._OPTIMIZER_FUNCS)
    functions["all"] = [*functions.get("all", []), (after, "all", 0)]
    set_attribute(stack, manager, "_initialize_graph_builder", initialize_graph_builder)
    set_attribute(stack, optimizers, "_OPTIMIZER_FUNCS", functions)


def taken(node: Any) -> Iterator[str]:
    """What a node takes, and what the branches of an If or the body of a Loop take."""
    yield from node.input
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for part in inner.node:
                yield from taken(part)
