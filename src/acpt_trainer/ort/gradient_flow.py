"""What PyTorch does not differentiate is not differentiated by ONNX Runtime either.

The exporter erases `detach`, and `torch.no_grad` leaves no trace at all in a graph, so that ONNX
Runtime would send gradients through both in silence. Autograd knows better: while the model is
traced it is on, and a result that it does not differentiate is traced with a `detach` behind it.
"""

from __future__ import annotations

import functools
import importlib
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort.backward import PREFIX
from acpt_trainer.ort.mends import set_attribute
from acpt_trainer.ort.settings import untraced

_HOOKS = ("register_hook", "register_post_accumulate_grad_hook", "retain_grad")


def follow_autograd(stack: ExitStack) -> None:
    """Traces with autograd on, and lets gradients end where PyTorch's do."""
    from acpt_trainer.ort.call import Call

    manager = importlib.import_module(
        "onnxruntime.training.ortmodule._graph_transition_manager"
    ).GraphTransitionManager
    forward, export = Call.forward, manager._export_model

    @functools.wraps(forward)
    def traced_forward(self: Any, *tensors: Any) -> Any:
        if not torch.jit.is_tracing():
            return forward(self, *tensors)
        with untraced():
            for name, tensor in zip(self.names, tensors, strict=True):
                if name in self.trained:
                    tensor.requires_grad_()
        # Nothing is kept for a backward pass that never comes.
        kept = torch.autograd.graph.saved_tensors_hooks(lambda _: None, _refused)
        with torch.enable_grad(), kept:  # ORTModule exports under no_grad
            outputs = forward(self, *tensors)
        # By name, since it may be a copy that is traced.
        named = {id(p): name for name, p in self.named_parameters()}
        named |= {id(t): f"tensors_{i}" for i, t in enumerate(tensors)}
        self.record.reached = [
            frozenset(named[id(leaf)] for leaf in leaves([output]) if id(leaf) in named)
            for output in outputs
        ]
        return outputs

    @functools.wraps(export)
    def export_model(**kwargs: Any) -> Any:
        model, schema, names, require_grad = export(**kwargs)
        # A parameter that no gradient reaches, frozen or not, has none in PyTorch: not even a
        # zero, which an optimizer with weight decay would act on.
        record = kwargs["flattened_module"]._original_module.record
        reached = record.reached_from(range(len(record.reached)))
        found = [name for name in require_grad if name.removeprefix(PREFIX) in reached]
        return model, schema, names, found

    def data(self: Any) -> Any:
        # Read while tracing it would be a constant of the graph.
        return self.detach() if torch.jit.is_tracing() else plain.__get__(self)

    plain = torch.Tensor.data
    set_attribute(stack, torch.Tensor, "data", property(data, plain.__set__))
    for context in (torch.no_grad, torch.set_grad_enabled, torch.inference_mode):
        _follow(stack, context)
    for name in _HOOKS:
        set_attribute(stack, torch.Tensor, name, _without_hooks(getattr(torch.Tensor, name)))
    set_attribute(stack, Call, "forward", traced_forward)
    set_attribute(stack, manager, "_export_model", staticmethod(export_model))


def _follow(stack: ExitStack, context: Any) -> None:
    """Lets `Autograd` watch what a model computes in this kind of context while it is traced.

    There only: the tracer loses track of sizes given as numbers when a mode is in between.
    """
    enter, leave = context.__enter__, context.__exit__
    modes: list[Autograd | None] = []

    def entered(self: Any) -> None:
        enter(self)
        modes.append(Autograd() if torch.jit.is_tracing() else None)
        if modes[-1] is not None:
            modes[-1].__enter__()

    def left(self: Any, *error: Any) -> None:
        mode = modes.pop() if modes else None
        if mode is not None:
            mode.__exit__(*error)
        leave(self, *error)

    set_attribute(stack, context, "__enter__", entered)
    set_attribute(stack, context, "__exit__", left)


class Autograd(TorchFunctionMode):  # type: ignore[misc]
    """Puts a `detach` behind each operator that autograd did not record."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = func(*args, **kwargs)
        for warning in caught:
            _pass_on(warning)
        inputs = [t for t in _tensors([*args, *kwargs.values()]) if t.requires_grad]
        if not inputs or isinstance(result, torch.Size) or func == torch.Tensor.detach:
            return result
        if isinstance(result, torch.Tensor):
            return _cut(result, inputs)
        if type(result) in (tuple, list):
            return type(result)(
                _cut(t, inputs) if isinstance(t, torch.Tensor) else t for t in result
            )
        return result


def _without_hooks(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def hooked(self: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.jit.is_tracing():
            raise GraphBuildError(
                f"the forward pass calls Tensor.{method.__name__} on a tensor inside the graph, "
                "where ONNX Runtime runs no Python"
            )
        return method(self, *args, **kwargs)

    return hooked


def _refused(_: Any) -> Any:
    raise GraphBuildError(
        "the forward pass computes gradients itself (torch.autograd.grad or backward), which no "
        "training graph holds"
    )


def leaves(outputs: Sequence[Any]) -> list[Any]:
    """The tensors that a backward pass from the outputs gives gradients to."""
    found = [output for output in outputs if output.is_leaf and output.requires_grad]
    todo = [output.grad_fn for output in outputs]
    seen: set[Any] = {None}
    while todo:
        function = todo.pop()
        if function in seen:
            continue
        seen.add(function)
        todo += [following for following, _ in function.next_functions]
        if hasattr(function, "variable"):
            found.append(function.variable)
    return found


def _pass_on(warning: warnings.WarningMessage) -> None:
    """Warns again, where the model called the operator and not where this module did."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename == __file__ and frame.f_back:
        frame = frame.f_back
    here = warning.filename == __file__
    filename = frame.f_code.co_filename if here else warning.filename
    line = frame.f_lineno if here else warning.lineno
    warnings.warn_explicit(warning.message, warning.category, filename, line)


def _tensors(value: Any) -> list[Any]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _cut(result: Any, inputs: Sequence[Any]) -> Any:
    """A result behind a `detach`, if it has numbers and no gradient, and is not an input itself."""
    if result.requires_grad or result.dtype is torch.bool or any(result is t for t in inputs):
        return result
    return result.detach()
