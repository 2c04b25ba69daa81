"""What PyTorch does not differentiate is not differentiated by ONNX Runtime either.

The exporter erases `detach`, and `torch.no_grad` leaves no trace at all in a graph, so that ONNX
Runtime would send gradients through both in silence. Autograd knows better: while the model is
traced it is on, and a result that it does not differentiate is traced with a `detach` behind it
(see `followed`).
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch

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
    for name in _HOOKS:
        set_attribute(stack, torch.Tensor, name, _without_hooks(getattr(torch.Tensor, name)))
    set_attribute(stack, Call, "forward", traced_forward)
    set_attribute(stack, manager, "_export_model", staticmethod(export_model))


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
