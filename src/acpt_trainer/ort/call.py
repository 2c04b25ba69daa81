"""A model's call as a graph can hold it: tensors in, flat tensors out, the rest fixed."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort.deferred import Deferred


class Call(nn.Module):  # type: ignore[misc]
    """What ORTModule sees: tensors in by position, a flat tuple of tensors out, the rest fixed."""

    def __init__(
        self,
        model: nn.Module,
        original: Callable[..., Any],
        names: Sequence[str],
        fixed: Mapping[str, Any],
    ) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(names)
        self.fixed = dict(fixed)
        self.structure: list[Any] = [None]
        self.outputs: tuple[tuple[int, torch.dtype], ...] = ()  # rank and type of each
        self.export: Any = None  # how its export is come by; see `export`
        # Not a submodule and not a parameter: kept out of nn.Module's registries.
        object.__setattr__(self, "original", original)
        self.training = model.training

    def __deepcopy__(self, memo: dict[int, Any]) -> Call:
        model = copy.deepcopy(self.model, memo)
        twin = Call(model, rebound(self.original, self.model, model), self.names, self.fixed)
        twin.structure = self.structure  # the copy is traced, this one is called
        memo[id(self)] = twin
        return twin

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Calls the original forward and keeps the structure of what it returns."""
        output = self.original(**dict(zip(self.names, tensors, strict=True)), **self.fixed)
        flat: list[torch.Tensor] = []
        self.structure[0] = flatten(output, flat)
        self.outputs = tuple((tensor.dim(), tensor.dtype) for tensor in flat)
        return tuple(flat)


def rebound(method: Callable[..., Any], old: nn.Module, new: nn.Module) -> Callable[..., Any]:
    """A model's method for a copy of the model; anything else as it is."""
    if getattr(method, "__self__", None) is old:
        return types.MethodType(method.__func__, new)  # type: ignore[attr-defined]
    return method


def flatten(value: Any, flat: list[torch.Tensor]) -> Any:
    """Moves the tensors of a nested output into `flat` and returns the structure without them."""
    if torch.is_tensor(value):
        flat.append(value)
        return ("tensor", len(flat) - 1)
    if value is None or isinstance(value, (bool, int, float, str)):
        return ("constant", value)
    if isinstance(value, Deferred):
        args = [flatten(v, flat) for v in value.args]
        kwargs = {k: flatten(v, flat) for k, v in value.kwargs.items()}
        return ("deferred", value.function, args, kwargs)
    if isinstance(value, Mapping):
        return ("mapping", type(value), [(k, flatten(v, flat)) for k, v in value.items()])
    if isinstance(value, (list, tuple)):
        return ("sequence", type(value), [flatten(v, flat) for v in value])
    raise GraphBuildError(
        f"the model returns a {type(value).__module__}.{type(value).__qualname__}, and only "
        "tensors, numbers, text, None and nested lists, tuples and mappings can leave a graph"
    )


def rebuild(structure: Any, flat: Sequence[torch.Tensor]) -> Any:
    """Puts tensors back into the structure that `flatten` took them from."""
    kind, *rest = structure
    if kind == "tensor":
        return flat[rest[0]]
    if kind == "constant":
        return rest[0]
    if kind == "deferred":
        function, args, kwargs = rest
        return function(
            *(rebuild(v, flat) for v in args), **{k: rebuild(v, flat) for k, v in kwargs.items()}
        )
    made, items = rest
    if kind == "mapping":
        rebuilt = {k: rebuild(v, flat) for k, v in items}
        if issubclass(made, dict) and made is not dict:  # a ModelOutput leaves None out
            return made(**{k: v for k, v in rebuilt.items() if v is not None})
        return made(rebuilt)
    values = [rebuild(v, flat) for v in items]
    return made(*values) if hasattr(made, "_make") else made(values)


def after_graph(structure: Any) -> tuple[str, ...]:
    """Names of the functions that PyTorch computes from a graph's outputs."""
    kind, *rest = structure
    if kind == "deferred":
        return (rest[0].__name__,)
    if kind == "mapping":
        return tuple(name for _, value in rest[1] for name in after_graph(value))
    if kind == "sequence":
        return tuple(name for value in rest[1] for name in after_graph(value))
    return ()
