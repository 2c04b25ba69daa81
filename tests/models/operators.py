"""Single operators against PyTorch: each in a table by name, tried in a process of its own."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing.connection import Connection
from typing import Any

import torch

from acpt_trainer import GraphBuildError

from .checks import Row
from .expressions import numbers, same_as_pytorch

MODULES = (
    "elementwise",
    "edges",
    "reductions",
    "indexing",
    "shapes",
    "matrices",
    "layers",
    "losses",
)
"""The modules `operators_<name>` that hold tables, each as `OPERATORS`, `REFUSED`, `DIFFERS`."""


@dataclass(frozen=True)
class Operator:
    """One operator in an expression of a weight and an input.

    Attributes:
        expression: Of the weight and the input.
        shape: Of the weight.
        inputs: One call each, of other sizes where the operator can have them.
        refused: Part of the reason why it is refused; empty where it holds.
        differs: What differs, where that is known and left; empty where it holds.
    """

    expression: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    shape: Sequence[int]
    inputs: Sequence[torch.Tensor]
    refused: str = ""
    differs: str = ""


def of_product(function: Callable[[torch.Tensor], torch.Tensor]) -> Operator:
    """An operator on the product of a batch and a weight, rows x columns x 8."""
    return Operator(lambda w, x: function(x @ w), (8, 8), (numbers(2, 3, 8), numbers(3, 5, 8)))


def of_values(function: Callable[[torch.Tensor], torch.Tensor], *values: float) -> Operator:
    """An operator on exactly these numbers, in as many sizes as two."""
    inputs = torch.tensor([values])

    def expression(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return function(x + (w - w.detach()))  # x itself, with a gradient for each number

    return Operator(expression, (len(values),), (inputs, inputs.repeat(2, 1)))


def of_images(function: Callable[[torch.Tensor], torch.Tensor]) -> Operator:
    """An operator on images, each pixel with a gradient of its own."""
    return Operator(
        lambda w, x: function(x * w[:, : x.shape[2], : x.shape[3]]),
        (4, 8, 8),
        (numbers(2, 4, 6, 6), numbers(3, 4, 8, 8)),
    )


def of_weight(
    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    shape: Sequence[int],
    *inputs: torch.Tensor,
) -> Operator:
    """An operator on a weight and an input themselves."""
    return Operator(function, shape, inputs)


@cache
def operators() -> Mapping[str, Operator]:
    """All operators by name."""
    found: dict[str, Operator] = {}
    for module in MODULES:
        held = importlib.import_module(f".operators_{module}", __package__)
        assert not found.keys() & held.OPERATORS.keys(), "two operators have one name"
        differs = getattr(held, "DIFFERS", {})
        outside = {*held.REFUSED, *differs} - held.OPERATORS.keys()
        assert not outside, f"no operators: {outside}"
        for name, operator in held.OPERATORS.items():
            found[name] = replace(
                operator, refused=held.REFUSED.get(name, ""), differs=differs.get(name, "")
            )
    return found


def tried(name: str) -> Row:
    """The outcome of one operator, in this process."""
    operator = operators()[name]
    status, reason = "holds", ""
    try:
        same_as_pytorch(operator.expression, operator.shape, *operator.inputs)
    except GraphBuildError as error:
        status, reason = "refused", str(error)
    except AssertionError as error:
        status, reason = "differs", str(error)
    except Exception as error:
        status, reason = "failed", f"{type(error).__name__}: {error}"
    return Row(name, "", "operator", status, reason[:3000])


def try_operator(writer: Connection, job: Any, log: str) -> None:
    """What a child process does with a job whose entry is an operator's name."""
    torch.set_num_threads(1)
    with open(log, "w") as file:  # what the engine writes as it dies
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    writer.send(tried(job.entry))
