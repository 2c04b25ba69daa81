"""Exports a model's call, lets ONNX Runtime build the training graph, and runs that once."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch

from acpt_trainer.ort import patches
from acpt_trainer.ort.call import Call, after_graph
from acpt_trainer.ort.explain import explained
from acpt_trainer.ort.graph import GraphSummary, summarize
from acpt_trainer.ort.schema import Schema, Tensors


@dataclass
class TrainingGraph:
    """One exported graph: the ORTModule, what it was exported for, and what it consists of."""

    module: Any
    call: Call
    schema: Schema
    summary: GraphSummary | None = None
    tracer_warnings: tuple[str, ...] = ()

    def run(self, tensors: Tensors) -> Any:
        """Runs the forward pass, with dropout seeded from torch's random state."""
        if self.summary is None or self.summary.dropout_ops:
            import onnxruntime

            onnxruntime.set_seed(int(torch.randint(0, 2**31 - 1, ()).item()))
        return self.module(*tensors.values())


def build(call: Call, schema: Schema, tensors: Tensors) -> tuple[TrainingGraph, Any]:
    """Exports a graph and runs it for the first time, which is when ORTModule builds it.

    Args:
        call: The model's call to export.
        schema: What the graph is for.
        tensors: The first inputs.

    Returns:
        The graph and the outputs of its first run.

    Raises:
        GraphBuildError: If the model cannot be exported, with the operator and the line.
    """
    from accelerate.utils.memory import should_reduce_batch_size
    from onnxruntime.training.ortmodule import DebugOptions, LogLevel, ORTModule

    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught, patches.building():
        warnings.simplefilter("always")
        try:
            graph = TrainingGraph(
                ORTModule(call, DebugOptions(log_level=LogLevel.ERROR)), call, schema
            )
            outputs = graph.run(tensors)
        except Exception as error:
            if should_reduce_batch_size(error):
                raise  # out of memory: `auto_find_batch_size` handles it
            raise explained(error, type(call.model).__name__) from error
    seconds = time.perf_counter() - started
    manager = graph.module._torch_module._execution_manager(True)
    export = _export_seconds(manager)
    graph.summary = summarize(manager._onnx_models.optimized_model, export, seconds - export)
    graph.summary = replace(graph.summary, after_graph=list(after_graph(call.structure[0])))
    graph.tracer_warnings = tuple(
        sorted({f"{w.filename}:{w.lineno}" for w in caught if "Tracer" in w.category.__name__})
    )
    return graph, outputs


def _export_seconds(manager: Any) -> float:
    from onnxruntime.training.ortmodule._logger import ORTModuleInitPhase

    tracker = manager.time_tracker
    phase = ORTModuleInitPhase.EXPORT
    try:
        return float(tracker.ends_[phase] - tracker.starts_[phase])
    except (AttributeError, KeyError, IndexError, TypeError):
        return 0.0
