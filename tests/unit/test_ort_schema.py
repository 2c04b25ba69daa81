"""A call's arguments: which are inputs of the graph, which are fixed in it, which are refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort.schema import split_arguments

ONE, TWO = torch.tensor([1.0]), torch.tensor([2.0, 3.0])


class Kettle(nn.Module):
    """Only its name is used."""


def boil(x: Any, mask: Any = None, use_cache: bool = True, **kwargs: Any) -> None:
    """A forward that takes all kinds of arguments."""


def split(*args: Any, forward: Callable[..., Any] = boil, **kwargs: Any) -> tuple[Any, Any]:
    return split_arguments(Kettle(), inspect.signature(forward), args, kwargs)


def test_arguments_are_split_into_tensors_and_the_rest() -> None:
    tensors, fixed = split(TWO, mask=ONE, labels=TWO, scale=2, name="t")
    assert set(tensors) == {"x", "mask", "labels"}
    assert tensors["labels"] is TWO
    assert fixed == {"use_cache": False, "scale": 2, "name": "t"}


def test_arguments_that_change_per_step_become_tensors() -> None:
    tensors, fixed = split(TWO, num_items_in_batch=7)
    assert torch.equal(tensors["num_items_in_batch"], torch.tensor(7))
    assert "num_items_in_batch" not in fixed


def test_arguments_without_a_cache_switch_get_none() -> None:
    _, fixed = split(TWO, forward=lambda x: None)
    assert fixed == {}


@pytest.mark.parametrize(
    "value", [object(), [object()], {"a": {1, 2}}], ids=["plain", "list", "set"]
)
def test_arguments_that_no_graph_takes_are_refused_by_name(value: Any) -> None:
    with pytest.raises(GraphBuildError, match="the argument 'extra' holds a"):
        split(TWO, extra=value)


def test_arguments_without_names_are_refused() -> None:
    with pytest.raises(GraphBuildError, match=r"Kettle.forward takes \*inputs"):
        split(TWO, forward=lambda *inputs: None)


class Pot(nn.Module):
    """Wraps a model as PEFT does."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.inner = Kettle()
        self.inner.forward = forward  # type: ignore[method-assign]

    def get_base_model(self) -> nn.Module:
        return self.inner


@pytest.mark.parametrize(("wrapped", "cache"), [(boil, {"use_cache": False}), (lambda x: x, {})])
def test_cache_of_a_wrapped_model_is_switched_off(
    wrapped: Callable[..., Any], cache: dict[str, Any]
) -> None:
    def forward(x: Any, **kwargs: Any) -> None: ...

    _, fixed = split_arguments(Pot(wrapped), inspect.signature(forward), (TWO,), {})
    assert fixed == cache
