"""Exports a model's call, lets ONNX Runtime build the training graph, and runs that once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch

from acpt_trainer.ort import cuda, patches, recompute
from acpt_trainer.ort.cache import ExportCache
from acpt_trainer.ort.call import Call, after_graph
from acpt_trainer.ort.explain import explained
from acpt_trainer.ort.export import Export
from acpt_trainer.ort.graph import GraphSummary, summarize
from acpt_trainer.ort.recompute import Recompute
from acpt_trainer.ort.schema import Schema, Tensors


@dataclass
class TrainingGraph:
    """One exported graph: the ORTModule, what it was exported for, and what it consists of."""

    module: Any
    call: Call
    schema: Schema
    summary: GraphSummary | None = None
    cache_use: str = "off"
    tracer_warnings: tuple[str, ...] = ()
    recompute: Recompute | None = None

    def run(self, tensors: Tensors) -> Any:
        """Runs the forward pass, with dropout seeded from torch's random state."""
        if self.summary is None or self.summary.dropout_ops:
            import onnxruntime

            onnxruntime.set_seed(int(torch.randint(0, 2**31 - 1, ()).item()))
        return self.module(*tensors.values())


def build(
    call: Call, schema: Schema, tensors: Tensors, cache: ExportCache | None = None
) -> tuple[TrainingGraph, Any]:
    """Exports a graph and runs it for the first time, which is when ORTModule builds it.

    Args:
        call: The model's call to export.
        schema: What the graph is for.
        tensors: The first inputs.
        cache: Where exports are kept between runs, or None to keep none.

    Returns:
        The graph and the outputs of its first run.

    Raises:
        GraphBuildError: If the model cannot be exported, with the operator and the line.
    """
    from accelerate.utils.memory import should_reduce_batch_size
    from onnxruntime.training.ortmodule import DebugOptions, LogLevel, ORTModule

    name, level = type(call.model).__name__, schema["recompute"]
    with (
        warnings.catch_warnings(record=True) as caught,
        patches.building(),
        recompute.planned(call.model, level) as folder,
    ):
        warnings.simplefilter("always")
        saved = {"save_onnx": True, "onnx_prefix": "graph", "save_path": folder} if folder else {}
        try:
            export = Export(call, tensors, cache)
            module = ORTModule(call, DebugOptions(log_level=LogLevel.ERROR, **saved))
            graph = TrainingGraph(module, call, schema)
            outputs = graph.run(tensors)
        except Exception as error:
            if should_reduce_batch_size(error):
                raise  # out of memory: `auto_find_batch_size` handles it
            raise explained(error, name) from error
        cuda.verify_provider(module)
        if folder:
            graph.recompute = recompute.evidence(module, level, folder, name)
    graph.cache_use = export.cache_use
    graph.summary = _summary(module, export)
    graph.summary = replace(graph.summary, after_graph=list(after_graph(call.structure[0])))
    graph.tracer_warnings = tuple(
        sorted({f"{w.filename}:{w.lineno}" for w in caught if "Tracer" in w.category.__name__})
    )
    return graph, outputs


def _summary(module: Any, export: Export) -> GraphSummary:
    """What was built, and the seconds until it could run."""
    from onnxruntime.training.ortmodule._logger import ORTModuleInitPhase

    manager = module._torch_module._execution_manager(True)

    def seconds(phase: ORTModuleInitPhase) -> float:
        tracker = manager.time_tracker
        try:
            return float(tracker.ends_[phase] - tracker.starts_[phase])
        except TypeError:  # a phase that was not gone through
            return 0.0

    exported = seconds(ORTModuleInitPhase.EXPORT)
    rest = seconds(ORTModuleInitPhase.EndToEnd) - exported
    return summarize(manager._onnx_models.optimized_model, export.seconds + exported, rest)
