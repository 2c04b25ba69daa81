"""Passes over a graph, before its gradient is built and after."""

from __future__ import annotations

import collections
import functools
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
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


def run_after_gradients(stack: ExitStack, after: Callable[[Any], None]) -> None:
    """The same with a pass over the training graph alone."""
    run_around_gradients(stack, lambda info: None, after)


def readers_of(graph: Any) -> dict[str, list[Any]]:
    """By name, the nodes that take a value, and the graph's output that it is."""
    readers: dict[str, list[Any]] = collections.defaultdict(list)
    for node in graph.node:
        for name in taken(node):
            readers[name].append(node)
    for value in graph.output:
        readers[value.name].append(value)
    return readers


def replace_nodes(graph: Any, replaced: Mapping[str, Sequence[Any]]) -> None:
    """Puts nodes in the places of others, which are named by their first outputs."""
    firsts = [(node, next(iter(node.output), "")) for node in graph.node]
    nodes = [new for node, first in firsts for new in replaced.get(first, [node])]
    del graph.node[:]
    graph.node.extend(nodes)


def taken(node: Any) -> Iterator[str]:
    """What a node takes, and what the branches of an If or the body of a Loop take."""
    yield from node.input
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for part in inner.node:
                yield from taken(part)
