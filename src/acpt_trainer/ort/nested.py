"""Nested values taken apart into tensors and a structure, and put together again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort.deferred import Deferred

Structure = tuple[Any, ...]


def flatten(
    value: Any,
    flat: list[torch.Tensor],
    known: Mapping[int, Structure] | None = None,
    what: str = "the model returns",
) -> Structure:
    """Moves the tensors of a nested value into `flat` and returns the structure without them.

    A tensor that occurs twice is moved once.

    Args:
        value: Tensors, numbers, text, None, in nested sequences, mappings and dataclasses.
        flat: Takes the tensors.
        known: Structures that stand for some tensors, by the tensor's id; those are not moved.
        what: How a message about the value begins.

    Raises:
        GraphBuildError: If it holds anything else.
    """
    places = dict(known or {})

    def taken(part: Any) -> Structure:
        if torch.is_tensor(part):
            if id(part) not in places:
                flat.append(part)
                places[id(part)] = ("tensor", len(flat) - 1, part.requires_grad)
            return places[id(part)]
        if part is None or isinstance(part, (bool, int, float, str, torch.dtype, torch.device)):
            return ("constant", part)
        if isinstance(part, Deferred):
            kwargs = {k: taken(v) for k, v in part.kwargs.items()}
            return ("deferred", part.function, [taken(v) for v in part.args], kwargs)
        if isinstance(part, Mapping):
            return ("mapping", type(part), [(k, taken(v)) for k, v in part.items()])
        if isinstance(part, (list, tuple)):
            return ("sequence", type(part), [taken(v) for v in part])
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            fields = [(f.name, taken(getattr(part, f.name))) for f in dataclasses.fields(part)]
            return ("dataclass", type(part), fields)
        raise GraphBuildError(
            f"{what} a {type(part).__module__}.{type(part).__qualname__}, and only tensors, "
            "numbers, text, None and nested lists, tuples, mappings and dataclasses can pass "
            "a graph's bounds"
        )

    return taken(value)


def rebuild(
    structure: Structure,
    flat: Sequence[torch.Tensor],
    known: Callable[[Structure], Any] | None = None,
) -> Any:
    """Puts tensors back into the structure that `flatten` took them from.

    Args:
        structure: What `flatten` returned.
        flat: The tensors.
        known: Gives the tensor for a structure that `flatten` was told of.
    """
    without_gradient: dict[int, torch.Tensor] = {}

    def put(part: Structure) -> Any:
        kind, *rest = part
        if kind == "tensor":
            index, requires_grad = rest
            if requires_grad or not flat[index].requires_grad:
                return flat[index]
            return without_gradient.setdefault(index, flat[index].detach())
        if kind == "constant":
            return rest[0]
        if kind == "deferred":
            function, args, kwargs = rest
            return function(*(put(v) for v in args), **{k: put(v) for k, v in kwargs.items()})
        if kind == "sequence":
            values = [put(v) for v in rest[1]]
            return rest[0](*values) if hasattr(rest[0], "_make") else rest[0](values)
        if kind == "dataclass":
            return rest[0](**{k: put(v) for k, v in rest[1]})
        if kind == "mapping":
            rebuilt = {k: put(v) for k, v in rest[1]}
            if hasattr(rest[0], "__dataclass_fields__"):  # a ModelOutput leaves None out
                return rest[0](**rebuilt)
            made = rest[0]()
            made.update(rebuilt)
            return made
        assert known is not None
        return known(part)

    return put(structure)


def after_graph(structure: Structure | None) -> tuple[str, ...]:
    """Names of the functions that PyTorch computes from a graph's outputs."""
    kind, *rest = structure or ("constant",)
    if kind == "deferred":
        return (rest[0].__name__,)
    if kind in ("mapping", "dataclass"):
        return tuple(name for _, value in rest[1] for name in after_graph(value))
    if kind == "sequence":
        return tuple(name for value in rest[1] for name in after_graph(value))
    return ()
