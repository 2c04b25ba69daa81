"""Exports a model's call, lets ONNX Runtime build the training graph, and runs that once."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size

from acpt_trainer.ort import cuda, dropout, patches, recompute
from acpt_trainer.ort.cache import ExportCache
from acpt_trainer.ort.call import Call
from acpt_trainer.ort.explain import explained, first_line
from acpt_trainer.ort.export import Export
from acpt_trainer.ort.graph import GraphSummary, summarize
from acpt_trainer.ort.memory import Held, held
from acpt_trainer.ort.nested import after_graph
from acpt_trainer.ort.reads import changed
from acpt_trainer.ort.recompute import Recompute
from acpt_trainer.ort.schema import Schema, Tensors


@dataclass
class TrainingGraph:
    """One exported graph: the ORTModule, what it was exported for, and what it consists of."""

    module: Any
    call: Call
    schema: Schema
    shapes: tuple[torch.Size, ...]
    summary: GraphSummary | None = None
    cache_use: str = "off"
    recompute: Recompute | None = None
    _bound: tuple[int, ...] = ()

    def _bind(self) -> None:
        """Lets ORTModule, which keeps the parameters of its first run, see new ones."""
        model = self.call.model
        now = tuple(map(id, itertools.chain(model.parameters(), model.buffers())))
        if self._bound and now != self._bound:
            manager = self.module._torch_module._execution_manager(True)
            info = manager._graph_transition_manager._post_export_processed_model_info
            info._buffer_for_ort_runs = None
        self._bound = now

    def drops(self) -> bool:
        """Whether it has dropout, or may have: what it consists of is known when it is built."""
        return self.summary is None or bool(self.summary.dropout_ops)

    def run(self, tensors: Tensors, seed: int | None = None) -> Any:
        """Runs the forward pass.

        Args:
            tensors: The inputs.
            seed: For dropout.
        """
        self._bind()
        if seed is not None and self.drops():
            import onnxruntime

            onnxruntime.set_seed(seed)
            dropout.seed(seed)
        return self.module(*tensors.values())

    def tried(self, tensors: Tensors, seed: int | None) -> tuple[Any, list[str]]:
        """Runs the forward pass and says whether the graph was the right one.

        Returns:
            The outputs, and what differs from what the graph was made for; they are of use only
            where that is empty.
        """
        try:
            outputs = self.run(tensors, seed)
        except Exception as error:
            if should_reduce_batch_size(error):
                raise
            if shapes_of(tensors) == self.shapes:
                raise explained(error, self.call.model) from error
            # A size was fixed in a way that only the operators notice, such as a chunk's.
            return None, [f"the shapes of inputs, with which it fails: {first_line(error)}"]
        return outputs, changed(self.call.record.guards, outputs[-1])


def shapes_of(tensors: Tensors) -> tuple[torch.Size, ...]:
    """The shapes of a call's tensors."""
    return tuple(t.shape for t in tensors.values())


def drawn_seed() -> int:
    """A seed for ONNX Runtime's dropout, drawn from torch's random state."""
    return int(torch.randint(0, 2**31 - 1, ()).item())


def build(
    call: Call,
    schema: Schema,
    tensors: Tensors,
    cache: ExportCache | None = None,
    seed: int | None = None,
) -> tuple[TrainingGraph, Any]:
    """Exports a graph and runs it for the first time, which is when ORTModule builds it.

    Args:
        call: The model's call to export.
        schema: What the graph is for.
        tensors: The first inputs.
        cache: Where exports are kept between runs, or None to keep none.
        seed: For dropout in the first run.

    Returns:
        The graph and the outputs of its first run.

    Raises:
        GraphBuildError: If the model cannot be exported, with the operator and the line.
    """
    from onnxruntime.training.ortmodule import DebugOptions, LogLevel, ORTModule

    name, level = type(call.model).__name__, schema["recompute"]
    with (
        warnings.catch_warnings(),
        patches.building(),
        recompute.planned(call.model, level) as folder,
    ):
        warnings.simplefilter("ignore")  # the tracer's own; see `reads`
        saved = {"save_onnx": True, "onnx_prefix": "graph", "save_path": folder} if folder else {}
        try:
            export = Export(call, tensors, cache)
            module = ORTModule(call, DebugOptions(log_level=LogLevel.ERROR, **saved))
            graph = TrainingGraph(module, call, schema, shapes_of(tensors))
            outputs = graph.run(tensors, seed)
        except Exception as error:
            if should_reduce_batch_size(error):
                raise  # out of memory: `auto_find_batch_size` handles it
            record = call.record
            raise explained(error, call.model, record.failed_at, record.refusal) from error
        cuda.verify_provider(module)
        running = recompute.running(folder) if folder else None
        if running is not None:
            graph.recompute = recompute.evidence(module, level, running, name)
    graph.cache_use = export.cache_use
    graph.summary = replace(
        _summary(module, export, held(_built(module), graph.shapes, running)),
        after_graph=list(after_graph(call.record.structure)),
    )
    return graph, outputs


def _built(module: Any) -> Any:
    return module._torch_module._execution_manager(True)._onnx_models.optimized_model


def _summary(module: Any, export: Export, memory: Held) -> GraphSummary:
    """What was built, what it holds in memory, and the seconds until it could run."""
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
    summary = summarize(_built(module), export.seconds + exported, rest)
    return replace(summary, **memory.to_dict())
