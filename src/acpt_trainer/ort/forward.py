"""The model's forward pass run by ONNX Runtime while training, in place on the model itself.

The model object stays what it is: evaluation, generation, saving and unwrapping see the plain
model, and only `model.forward` is replaced, by an `OrtForward` that runs a training graph when the
model is in training mode with gradients on, and the original forward otherwise.
"""

from __future__ import annotations

import inspect
import logging
import time
import types
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort import patches
from acpt_trainer.ort.call import Call, rebuild
from acpt_trainer.ort.explain import explained
from acpt_trainer.ort.graph import GraphSummary, summarize

logger = logging.getLogger(__name__)

# Numbers that differ per step: baked into a graph as constants they would be silently wrong.
STEP_NUMBERS = ("num_items_in_batch",)


@dataclass
class TrainingGraph:
    """One exported graph: the ORTModule, what it was exported for, and what it consists of."""

    module: Any
    call: Call
    schema: dict[str, Any]
    summary: GraphSummary | None = None
    tracer_warnings: tuple[str, ...] = ()


class OrtForward:
    """Stands in for `model.forward` and runs it in ONNX Runtime while training.

    One graph is exported per schema: names, types and ranks of the tensors, every other argument,
    which parameters are trained, autocast, and the training flags of all submodules. Shapes are
    dynamic and need no new graph.

    Dropout is seeded from torch's random state at every step, so a run that restores that state
    repeats the same masks.

    Args:
        model: The model; its `forward` is replaced by `attach`.
        max_graphs: How many graphs may be exported before training stops, since each takes the
            time of several steps.

    Attributes:
        calls: Forward passes that ONNX Runtime ran.
        backward_calls: Backward passes that ONNX Runtime ran.
        graphs: The graphs by schema, oldest first.
    """

    def __init__(self, model: nn.Module, max_graphs: int = 8) -> None:
        self.model = model
        self.original = model.forward
        self.previous = model.__dict__.get("forward")
        self.max_graphs = max_graphs
        self.calls = 0
        self.backward_calls = 0
        self.grad_fn: str | None = None
        self.graphs: dict[Any, TrainingGraph] = {}
        self.released = False
        self.__signature__ = inspect.signature(model.forward)
        self.__name__ = "forward"
        self.__doc__ = model.forward.__doc__

    def __reduce__(self) -> Any:
        # Copies and pickles of the model get the original forward, bound to the copy.
        if getattr(self.original, "__self__", None) is self.model:
            return _bound, (self.original.__func__, self.model)
        return _identity, (self.original,)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs a training graph when the model trains, the original forward otherwise."""
        if self.released or not (self.model.training and torch.is_grad_enabled()):
            return self.original(*args, **kwargs)
        tensors, fixed = self._arguments(args, kwargs)
        schema = self._schema(tensors, fixed)
        key = tuple(schema.values())
        graph = self.graphs.get(key)
        if graph is None:
            graph, outputs = self._build(schema, tensors, fixed)
            self.graphs[key] = graph
        else:
            self._seed(graph)
            outputs = graph.module(*tensors.values())
        self._count(outputs)
        return rebuild(graph.call.structure[0], outputs)

    # --- arguments and schema --------------------------------------------------------------------

    def _arguments(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Splits a call's arguments into tensors and the rest."""
        bound = self.__signature__.bind(*args, **kwargs)
        flat: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            kind = self.__signature__.parameters[name].kind
            if kind is inspect.Parameter.VAR_KEYWORD:
                flat.update(value)
            elif kind is inspect.Parameter.VAR_POSITIONAL:
                raise GraphBuildError(
                    f"{type(self.model).__name__}.forward takes *{name}; name its arguments"
                )
            else:
                flat[name] = value
        if "use_cache" in self.__signature__.parameters:
            flat["use_cache"] = False  # a key-value cache has no use in training and no ONNX form
        for name in STEP_NUMBERS:
            if isinstance(flat.get(name), (int, float)):
                flat[name] = torch.tensor(flat[name])
        tensors = {n: v for n, v in flat.items() if torch.is_tensor(v)}
        fixed = {n: v for n, v in flat.items() if not torch.is_tensor(v)}
        for name, value in fixed.items():
            if not _is_plain(value):
                raise explained(
                    GraphBuildError(
                        f"the argument {name!r} is a {type(value).__qualname__}; a graph takes "
                        "tensors, numbers, text and None"
                    ),
                    type(self.model).__name__,
                )
        return tensors, fixed

    def _schema(self, tensors: dict[str, torch.Tensor], fixed: dict[str, Any]) -> dict[str, Any]:
        """Everything that a graph depends on, by what to call it in a message."""
        device = next(self.model.parameters()).device
        autocast = torch.is_autocast_enabled(device.type)
        return {
            "tensor arguments": tuple(
                (n, v.dtype, v.dim(), v.requires_grad, v.device) for n, v in tensors.items()
            ),
            "other arguments": repr(sorted(fixed.items())),
            "parameters": tuple(
                (p.requires_grad, p.dtype, p.shape) for p in self.model.parameters()
            ),
            "autocast": torch.get_autocast_dtype(device.type) if autocast else None,
            "training mode of submodules": tuple(m.training for m in self.model.modules()),
        }

    # --- building --------------------------------------------------------------------------------

    def _build(
        self, schema: dict[str, Any], tensors: dict[str, torch.Tensor], fixed: dict[str, Any]
    ) -> tuple[TrainingGraph, Any]:
        """Exports a graph and runs it for the first time, which is when ORTModule builds it."""
        self._report_rebuild(schema)
        from accelerate.utils.memory import should_reduce_batch_size
        from onnxruntime.training.ortmodule import DebugOptions, LogLevel, ORTModule

        call = Call(self.model, self.original, tuple(tensors), fixed)
        started = time.perf_counter()
        with warnings.catch_warnings(record=True) as caught, patches.building():
            warnings.simplefilter("always")
            try:
                module = ORTModule(call, DebugOptions(log_level=LogLevel.ERROR))
                graph = TrainingGraph(module, call, schema)
                self._seed(graph)
                outputs = module(*tensors.values())
            except Exception as error:
                if should_reduce_batch_size(error):
                    raise  # out of memory: `auto_find_batch_size` handles it
                raise explained(error, type(self.model).__name__) from error
        seconds = time.perf_counter() - started
        manager = module._torch_module._execution_manager(True)
        export = _export_seconds(manager)
        graph.summary = summarize(manager._onnx_models.optimized_model, export, seconds - export)
        graph.tracer_warnings = tuple(
            sorted({f"{w.filename}:{w.lineno}" for w in caught if "Tracer" in w.category.__name__})
        )
        own = [line for line in graph.tracer_warnings if "site-packages" not in line]
        if own:
            logger.warning(
                "while the model was traced Python looked at a tensor; what it found is fixed in "
                "the graph. Compare losses with no_acc if it depends on the data: %s",
                ", ".join(own),
            )
        logger.info(
            "ONNX Runtime training graph %d: %d nodes in %.1f s",
            len(self.graphs) + 1, graph.summary.nodes, seconds,
        )  # fmt: skip
        return graph, outputs

    def _report_rebuild(self, schema: dict[str, Any]) -> None:
        if not self.graphs:
            return
        last = list(self.graphs.values())[-1].schema
        changed = [name for name, value in schema.items() if value != last[name]]
        if len(self.graphs) >= self.max_graphs:
            raise GraphBuildError(
                f"ONNX Runtime would export {type(self.model).__name__} for the "
                f"{len(self.graphs) + 1}th time, since these changed between steps: "
                f"{', '.join(changed)}.\n"
                f"    where: from {[last[n] for n in changed]} to {[schema[n] for n in changed]}\n"
                "    fix:   pass per-step numbers as tensors and keep the arguments the same, or "
                "allow more graphs with get_strategy('ort').build(max_graphs=...)."
            )
        logger.warning("exporting the model again, since these changed: %s", ", ".join(changed))

    def _seed(self, graph: TrainingGraph) -> None:
        """Seeds ONNX Runtime's dropout from torch's random state, if the graph has dropout."""
        if graph.summary is None or graph.summary.dropout_ops:
            import onnxruntime

            onnxruntime.set_seed(int(torch.randint(0, 2**31 - 1, ()).item()))

    # --- evidence --------------------------------------------------------------------------------

    def _count(self, outputs: Any) -> None:
        self.calls += 1
        if self.backward_calls:
            return
        first = next((o for o in _tensors(outputs) if o.grad_fn is not None), None)
        if first is not None:
            self.grad_fn = type(first.grad_fn).__name__
            first.grad_fn.register_hook(self._count_backward)

    def _count_backward(self, *_: Any) -> None:
        self.backward_calls += 1

    def release(self) -> None:
        """Gives the model its own forward back and frees the graphs."""
        if self.released:
            return
        self.released = True
        patches.stop()
        self.graphs = {}
        if self.model.__dict__.get("forward") is self:
            if self.previous is None:
                del self.model.__dict__["forward"]
            else:
                self.model.__dict__["forward"] = self.previous
        # Otherwise something else was put around it since (autocast): it then passes through.


def _identity(value: Any) -> Any:
    return value


def _bound(function: Callable[..., Any], model: nn.Module) -> Callable[..., Any]:
    return types.MethodType(function, model)


def _tensors(outputs: Any) -> Sequence[torch.Tensor]:
    return [outputs] if torch.is_tensor(outputs) else list(outputs)


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(v) for v in value)
    if isinstance(value, dict):
        return all(_is_plain(v) for v in value.values())
    return value is None or isinstance(value, (bool, int, float, str, torch.dtype))


def _export_seconds(manager: Any) -> float:
    from onnxruntime.training.ortmodule._logger import ORTModuleInitPhase

    tracker = manager.time_tracker
    phase = ORTModuleInitPhase.EXPORT
    try:
        return float(tracker.ends_[phase] - tracker.starts_[phase])
    except (AttributeError, KeyError, IndexError, TypeError):
        return 0.0


def attach(model: nn.Module, max_graphs: int = 8) -> OrtForward:
    """Puts ONNX Runtime behind `model.forward`.

    Args:
        model: Any `nn.Module` whose forward takes named arguments.
        max_graphs: See `OrtForward`.

    Returns:
        The forward in place; its `release` undoes this.

    Raises:
        ImportError: If onnxruntime-training is not installed.
    """
    patches.start()
    forward = OrtForward(model, max_graphs)
    model.forward = forward  # type: ignore[method-assign]
    return forward


def detach(model: nn.Module) -> None:
    """Undoes `attach`, if it is in place."""
    forward = model.__dict__.get("forward")
    if isinstance(forward, OrtForward):
        forward.release()
