"""The model's forward pass run by ONNX Runtime while training, in place on the model itself.

The model object stays what it is: evaluation, generation, saving and unwrapping see the plain
model, and only `model.forward` is replaced, by an `OrtForward` that runs a training graph when the
model is in training mode with gradients on, and the original forward otherwise.
"""

from __future__ import annotations

import inspect
import logging
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort import patches, precision
from acpt_trainer.ort.build import TrainingGraph, build, drawn_seed
from acpt_trainer.ort.cache import ExportCache
from acpt_trainer.ort.call import Call
from acpt_trainer.ort.explain import explained
from acpt_trainer.ort.place import Place
from acpt_trainer.ort.schema import (
    ModelSchema,
    Schema,
    Tensors,
    differences,
    schema_of,
    split_arguments,
)

logger = logging.getLogger(__name__)


class OrtForward:
    """Stands in for `model.forward` and runs it in ONNX Runtime while training.

    One graph is exported per schema: names, types and ranks of the tensors, every other argument,
    which parameters are trained, autocast, and the training flags of all submodules. Shapes are
    dynamic and need no new graph, unless Python reads one and finds it changed (see `reads`).

    Dropout is seeded from torch's random state at every step, so a run that restores that state
    repeats the same masks.

    Args:
        model: The model; its `forward` is replaced by `attach`.
        max_graphs: How many graphs may be exported before training stops, since each takes the
            time of several steps.
        cache: Where exported graphs are kept between runs, or None to keep none.
        recompute: Level of ONNX Runtime's recompute; None follows the model's own gradient
            checkpointing. See `recompute`.

    Attributes:
        calls: Forward passes that ONNX Runtime ran.
        backward_calls: Backward passes that ONNX Runtime ran.
        graphs: The graphs, oldest first.
        re_exports: Why each graph after the first was exported.
    """

    def __init__(
        self,
        model: nn.Module,
        max_graphs: int = 8,
        cache: ExportCache | None = None,
        recompute: int | None = None,
    ) -> None:
        self.model = model
        self.original = model.forward
        self.previous = model.__dict__.get("forward")
        self.max_graphs = max_graphs
        self.cache = cache
        self.held = ModelSchema(model, recompute)
        self.calls = 0
        self.backward_calls = 0
        self.grad_fn: str | None = None
        self.graphs: dict[int, TrainingGraph] = {}
        self.re_exports: list[str] = []
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
        _refuse_transforms(self.model)
        tensors, fixed = split_arguments(self.model, self.__signature__, args, kwargs)
        schema = schema_of(self.held, tensors, fixed)
        graph, outputs = self._run(schema, tensors, fixed)
        self._count(outputs)
        return graph.call.restored(outputs, tensors)

    def _run(
        self, schema: Schema, tensors: Tensors, fixed: dict[str, Any]
    ) -> tuple[TrainingGraph, Any]:
        """Runs the graph that fits, exporting one if there is none."""
        fitting = [g for g in reversed(self.graphs.values()) if g.schema == schema]
        seed = drawn_seed() if not fitting or any(g.drops() for g in fitting) else None
        reasons: list[str] = []
        for graph in fitting:
            outputs, differs = graph.tried(tensors, seed)
            if not differs:
                return graph, outputs
            reasons = reasons or differs
        graph, outputs = self._build(schema, tensors, fixed, reasons, seed)
        # The trace may have filled caches and settings of the model's.
        graph.schema = schema_of(self.held, tensors, fixed)
        self.graphs[len(self.graphs)] = graph
        return graph, outputs

    # --- building --------------------------------------------------------------------------------

    def _build(
        self,
        schema: Schema,
        tensors: Tensors,
        fixed: dict[str, Any],
        reasons: list[str],
        seed: int | None,
    ) -> tuple[TrainingGraph, Any]:
        """Builds and runs a further graph, and says what is to be known of it."""
        precision.refuse(self.model, schema["autocast"])
        self._report_rebuild(schema, reasons)
        trained = [name for name, tensor in tensors.items() if tensor.requires_grad]
        call = Call(self.model, self.original, tuple(tensors), fixed, trained)
        graph, outputs = build(call, schema, tensors, self.cache, seed)
        if call.record.written:
            logger.warning(
                "the forward pass writes into its arguments %s; in ONNX Runtime the caller's "
                "tensors stay as they were",
                ", ".join(call.record.written),
            )
        summary = graph.summary
        if summary is not None:
            logger.info(
                "ONNX Runtime training graph %d: %d nodes in %.1f s (cache: %s)",
                len(self.graphs) + 1,
                summary.nodes,
                summary.export_seconds + summary.build_seconds,
                graph.cache_use,
            )
        return graph, outputs

    def _report_rebuild(self, schema: Schema, reasons: list[str]) -> None:
        """Says why a further graph is exported, and stops when there were enough.

        Args:
            schema: What the graph is for.
            reasons: Why a graph of this schema does not do.

        Raises:
            GraphBuildError: If `max_graphs` were exported.
        """
        if not self.graphs:
            return
        last = next(reversed(self.graphs.values())).schema
        changed = differences(self.model, last, schema)
        if len(self.graphs) >= self.max_graphs:
            moves = reasons or list(changed.values())
            raise GraphBuildError(
                f"ONNX Runtime would export {type(self.model).__name__} for the "
                f"{len(self.graphs) + 1}th time, since these changed between steps: "
                f"{', '.join(reasons or changed)}.\n"
                f"    where: {'; '.join(moves)}\n"
                "    fix:   pass per-step numbers as tensors, keep the arguments the same and pad "
                "to few lengths, or allow more graphs with "
                "get_strategy('ort').build(max_graphs=...)."
            )
        self.re_exports.append(", ".join(reasons or changed))
        logger.warning("exporting the model again, since these changed: %s", self.re_exports[-1])

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


def _refuse_transforms(model: nn.Module) -> None:
    """Refuses what looks through a function's backward pass into its operators.

    Raises:
        GraphBuildError: If such a call is running.
    """
    what = ""
    if torch._C._are_functorch_transforms_active():
        what = "a transform of torch.func (vmap, grad, ...) looks through the model's operators"
    elif any(p.grad_fn is not None for p in model.parameters()):
        what = "torch.func.functional_call put computed tensors in place of its parameters"
    if what:
        error = GraphBuildError(f"{what}, and a graph of ONNX Runtime is one operator of its own")
        raise explained(error, model, Place("the call of the model")) from None


def _identity(value: Any) -> Any:
    return value


def _bound(function: Callable[..., Any], model: nn.Module) -> Callable[..., Any]:
    return types.MethodType(function, model)


def _tensors(outputs: Any) -> Sequence[torch.Tensor]:
    return [outputs] if torch.is_tensor(outputs) else list(outputs)


def attach(
    model: nn.Module,
    max_graphs: int = 8,
    cache: ExportCache | None = None,
    recompute: int | None = None,
) -> OrtForward:
    """Puts ONNX Runtime behind `model.forward`.

    Args:
        model: Any `nn.Module` whose forward takes named arguments.
        max_graphs: See `OrtForward`.
        cache: See `OrtForward`.
        recompute: See `OrtForward`.

    Returns:
        The forward in place; its `release` undoes this.

    Raises:
        ImportError: If onnxruntime-training is not installed.
    """
    patches.start()
    forward = OrtForward(model, max_graphs, cache, recompute)
    model.forward = forward  # type: ignore[method-assign]
    return forward


def detach(model: nn.Module) -> None:
    """Undoes `attach`, if it is in place."""
    forward = model.__dict__.get("forward")
    if isinstance(forward, OrtForward):
        forward.release()
