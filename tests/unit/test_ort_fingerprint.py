"""What a quick look at a model notices, and what it lets pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules import module as everywhere

from acpt_trainer.ort.fingerprint import FEW, Fingerprint
from acpt_trainer.ort.recompute import LEVEL
from acpt_trainer.ort.schema import ModelSchema


class Kettle(nn.Module):
    """Of each kind one: parameters, buffers, parts, numbers, tensors, lists and functions."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1), nn.BatchNorm1d(2))
        self.degrees = 90
        self.scale = torch.ones(2)
        self.steps = [1, 2]
        self.names = {"a": 1}
        self.many = list(range(FEW + 1))
        self.act = torch.relu


def nothing(*given: Any) -> None:
    """A hook."""


def replaced(module: nn.Module, name: str) -> None:
    setattr(module, name, nn.Parameter(getattr(module, name).detach().clone()))


CHANGES: dict[str, Callable[[Kettle], Any]] = {
    "module added": lambda m: m.body.append(nn.ReLU()),
    "module added to the model": lambda m: m.add_module("lid", nn.ReLU()),
    "module replaced": lambda m: m.body.__setitem__(1, nn.Dropout(0.1)),
    "module taken off": lambda m: m.body.pop(1),
    "parameter frozen": lambda m: m.body[0].weight.requires_grad_(False),
    "parameter replaced": lambda m: replaced(m.body[0], "bias"),
    "parameter of another type": lambda m: m.body.half(),
    "parameter of another shape": lambda m: setattr(m.body[0].bias, "data", torch.ones(3)),
    "parameter added": lambda m: m.body[0].register_parameter("p", nn.Parameter(torch.ones(1))),
    "buffer replaced": lambda m: setattr(m.body[2], "running_mean", torch.zeros(2)),
    "buffer added": lambda m: m.register_buffer("level", torch.ones(1)),
    "mode of a part": lambda m: m.body[1].eval(),
    "mode": lambda m: m.eval(),
    "dropout": lambda m: setattr(m.body[1], "p", 0.2),
    "number": lambda m: setattr(m, "degrees", 91),
    "attribute added": lambda m: setattr(m, "lid", True),
    "attribute taken off": lambda m: delattr(m, "degrees"),
    "attribute of another name": lambda m: setattr(m, "grades", m.__dict__.pop("degrees")),
    "item of a list": lambda m: m.steps.__setitem__(0, 3),
    "item added": lambda m: m.steps.append(3),
    "item of a dict": lambda m: m.names.update(a=2),
    "name of an item": lambda m: m.names.update(b=m.names.pop("a")),
    "item of a long list taken off": lambda m: m.many.pop(),
    "tensor replaced": lambda m: setattr(m, "scale", torch.ones(2)),
    "tensor written to": lambda m: m.scale.mul_(2),
    "function": lambda m: setattr(m, "act", torch.tanh),
    "hook": lambda m: m.body[0].register_forward_hook(nothing),
    "hook before": lambda m: m.body[1].register_forward_pre_hook(nothing),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_look_notices_a_change(change: Callable[[Kettle], Any]) -> None:
    model = Kettle()
    look = Fingerprint(model)
    assert look.same()
    change(model)
    assert not look.same()
    assert Fingerprint(model).same()


def test_look_notices_hooks_that_are_replaced_or_of_all_modules() -> None:
    model = Kettle()
    handle = model.body[0].register_forward_hook(nothing)
    look = Fingerprint(model)
    handle.remove()
    handle = model.body[0].register_forward_hook(lambda *given: None)
    assert not look.same()
    handle.remove()

    for register in (
        everywhere.register_module_forward_hook,
        everywhere.register_module_forward_pre_hook,
    ):
        look = Fingerprint(model)
        handle = register(nothing)
        try:
            assert not look.same()
        finally:
            handle.remove()
        assert look.same()


def test_look_lets_training_pass() -> None:
    model = Kettle()
    optimizer = torch.optim.AdamW(model.parameters())
    look = Fingerprint(model)
    for _ in range(2):
        model.body(torch.ones(3, 2)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert look.same()


def test_schema_is_described_anew_only_after_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Kettle()
    held = ModelSchema(model)
    first = held.now()
    assert held.now() is first
    model.body[1].p = 0.2
    second = held.now()
    assert second is not first
    assert second != first
    monkeypatch.setenv(LEVEL, "1")
    assert held.now()["recompute"] == 1
