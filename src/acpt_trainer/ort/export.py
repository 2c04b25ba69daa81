"""One export of a call: taken from the cache where it is there, otherwise made and kept.

ORTModule asks for an export at three points. The functions at the end answer there, as patches.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import torch

from acpt_trainer.ort.cache import ExportCache
from acpt_trainer.ort.call import Call
from acpt_trainer.ort.mends import set_attribute
from acpt_trainer.ort.preview import NotTold, Preview, preview
from acpt_trainer.ort.schema import Tensors

logger = logging.getLogger(__name__)

_ORTMODULE = "onnxruntime.training.ortmodule"


class Export:
    """How the export of one call is come by.

    To be made before the ORTModule, which registers its symbolics.

    Args:
        call: The call.
        tensors: Its inputs.
        cache: Where exports are kept, or None to keep none.

    Attributes:
        preview: What the call will compute, or None if that is not to be told without data.
        found: The graph from the cache, or None.
        cache_use: `hit`, `miss`, or `off` and why.
        seconds: What the preview took.
    """

    def __init__(self, call: Call, tensors: Tensors, cache: ExportCache | None) -> None:
        self.call = call
        self.cache = cache
        self.preview: Preview | None = None
        self.found: Any | None = None
        self.cache_use = "off" if cache is None else "miss"
        self.key = ""
        started = time.perf_counter()
        try:
            self.preview = preview(call, tensors)
            if cache is not None:
                self.key = cache.key(self.preview.digest)
        except NotTold as error:
            self.switch_off(str(error))
        self.seconds = time.perf_counter() - started
        call.export = self

    def switch_off(self, why: str) -> None:
        """Goes on without the cache, and remembers why."""
        if self.cache is not None:
            self.cache = None
            self.cache_use = f"off: {why}"

    @contextlib.contextmanager
    def turn(self, flattened: Any) -> Iterator[None]:
        """Looks the export up; while it is made, other processes that want it wait."""
        with ExitStack() as stack:
            if self.cache is not None and self.preview is not None:
                try:
                    stack.enter_context(self.cache.turn(self.key))
                    self.found = self.cache.load(self.key)
                except OSError as error:  # a TimeoutError is one
                    self._warn(error)
            if self.found is not None and self.cache is not None:
                why = _misfit(self.found, flattened, self.preview)
                if why:
                    self.cache.reject(self.key, why)
                    self.found = None
            if self.found is not None:
                self.cache_use = "hit"
            yield

    def keep(self, model: Any) -> None:
        """Puts what was made into the cache."""
        if self.cache is None or self.preview is None or self.found is not None:
            return
        try:
            about = {"model": type(self.call.model).__qualname__}
            self.cache.store(self.key, model, about)
        except OSError as error:
            self._warn(error)

    def confirm(self) -> bool:
        """Whether the trace with data gave what the preview told."""
        told = self.preview
        if told is None:
            return True
        return (self.call.record.structure, self.call.outputs) == (told.structure, told.outputs)

    def outputs(self) -> tuple[list[str], dict[str, dict[int, str]], Any]:
        """Names, dynamic axes and ORTModule's schema of the outputs, without a run."""
        from onnxruntime.training.ortmodule import _io

        assert self.preview is not None
        told = self.preview.outputs
        names = [f"output-{i}" for i in range(len(told))]
        axes = {
            name: {axis: f"{name}_dim{axis}" for axis in range(rank)}
            for name, (rank, _) in zip(names, told, strict=True)
        }
        stubs = tuple(torch.empty((1,) * rank, dtype=dtype) for rank, dtype in told)
        return names, axes, _io._extract_schema(stubs, torch.device("cpu"))[1]

    def _warn(self, error: Exception) -> None:
        logger.warning("exported graphs are not kept between runs: %s", error)
        self.switch_off(f"{type(error).__name__}: {error}")


def _misfit(model: Any, flattened: Any, told: Preview | None) -> str | None:
    """Why a graph cannot be the call's, if so. The key says that it is; this looks once more."""
    here = {**dict(flattened.named_parameters()), **dict(flattened.named_buffers())}
    # So ORTModule names what `Call.forward` takes.
    inputs = {f"tensors_{i}" for i in range(len(flattened._original_module.names))}
    for given in model.graph.input:
        dims = [d.dim_value for d in given.type.tensor_type.shape.dim]
        if given.name in here and dims != list(here[given.name].shape):
            return f"{given.name} has the shape {dims}"
        if given.name not in here and given.name not in inputs:
            return f"it takes {given.name}"
    count = len(model.graph.output)
    return f"it has {count} outputs" if told is None or count != len(told.outputs) else None


def _of(flattened: Any) -> Export | None:
    return getattr(flattened._original_module, "export", None)


# --- patches -------------------------------------------------------------------------------------


def tell_outputs(stack: ExitStack) -> None:
    """Answers what the outputs are from the preview, where there is one."""
    io = importlib.import_module(f"{_ORTMODULE}._io")
    run = io.parse_outputs_for_onnx_export_and_extract_schema

    @functools.wraps(run)
    def parse_outputs(module: Any, *args: Any, **kwargs: Any) -> Any:
        export = _of(module)
        if export is None or export.preview is None:
            return run(module, *args, **kwargs)
        return export.outputs()

    set_attribute(stack, io, run.__name__, parse_outputs)


def use_cache(stack: ExitStack) -> None:
    """Takes exports from the cache, and puts them there after shape inference."""
    manager = importlib.import_module(f"{_ORTMODULE}._graph_transition_manager")
    manager = manager.GraphTransitionManager
    process, make = manager.get_post_processed_model, manager._get_exported_model

    @functools.wraps(process)
    def get_post_processed_model(self: Any, args: Any, kwargs: Any) -> Any:
        export = _of(self._flatten_module)
        if export is None:
            return process(self, args, kwargs)
        options = self._runtime_options
        if options.enable_zero_stage3_support or options.enable_mem_efficient_grad_management:
            export.switch_off("ORTModule is told to change the graph after the export")
        infer = options.run_symbolic_shape_infer
        with export.turn(self._flatten_module):
            options.run_symbolic_shape_infer = infer and export.found is None  # already in it
            try:
                result = process(self, args, kwargs)
            finally:
                options.run_symbolic_shape_infer = infer
            export.keep(result[1]._post_export_processed_model)
        return result

    @functools.wraps(make)
    def get_exported_model(flattened_module: Any, *args: Any, **kwargs: Any) -> Any:
        export = _of(flattened_module)
        if export is not None and export.found is not None:
            return export.found, export.outputs()[2]
        result = make(flattened_module, *args, **kwargs)
        if export is not None and not export.confirm():
            export.preview = None
            export.switch_off("the model does otherwise when it is traced without data")
            result = make(flattened_module, *args, **kwargs)
        return result

    set_attribute(stack, manager, "get_post_processed_model", get_post_processed_model)
    set_attribute(stack, manager, "_get_exported_model", staticmethod(get_exported_model))


def probe_memory_on_demand(stack: ExitStack) -> None:
    """Builds no session for the memory statistics unless recomputation was asked for."""
    manager = importlib.import_module(f"{_ORTMODULE}._training_manager").TrainingManager
    create = manager._create_execution_agent

    @functools.wraps(create)
    def create_execution_agent(self: Any) -> None:
        wanted = self._runtime_options.memory_optimizer_is_enabled()
        self._runtime_inspector.memory_ob._is_enabled = wanted
        create(self)

    set_attribute(stack, manager, "_create_execution_agent", create_execution_agent)
