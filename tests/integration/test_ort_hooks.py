"""Forward hooks inside a model, and what a forward pass collects, under `ort`: the real engine."""

from __future__ import annotations

import copy
import functools
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.modules import module as everywhere

from acpt_trainer import GraphBuildError
from acpt_trainer.ort.forward import attach


class Net(nn.Module):
    """Two layers, and something that is done with what is between them."""

    def __init__(self, between: Callable[..., Any] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        self.between = between
        self.seen: Any = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.layers[0](x)
        if self.between is not None:
            self.between(self, h)
        return self.layers[1](h).sum()


X = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))


class Recorder:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def nothing(self, *given: Any) -> None:
        self.calls.append(given[-1])

    def the_same(self, *given: Any) -> Any:
        self.calls.append(given[-1])
        return given[-1]

    def the_one(self, module: nn.Module, given: Any) -> Any:
        self.calls.append(given)
        return given[0]

    def __call__(self, *given: Any) -> None:
        self.calls.append(given[-1])


SILENT: dict[str, Callable[[nn.Module, Recorder], Any]] = {
    "nothing": lambda m, r: m.register_forward_hook(r.nothing),
    "the same": lambda m, r: m.register_forward_hook(r.the_same),
    "nothing, before": lambda m, r: m.register_forward_pre_hook(r.nothing),
    "the same, before": lambda m, r: m.register_forward_pre_hook(r.the_same),
    "the one, before": lambda m, r: m.register_forward_pre_hook(r.the_one),
    "named arguments": lambda m, r: m.register_forward_hook(r.nothing, with_kwargs=True),
    "partial": lambda m, r: m.register_forward_hook(functools.partial(r.nothing, 1)),
    "object": lambda m, r: m.register_forward_hook(r),
    "all modules": lambda m, r: everywhere.register_module_forward_hook(r.nothing),
    "all modules, before": lambda m, r: everywhere.register_module_forward_pre_hook(r.nothing),
}


@pytest.mark.parametrize("how", SILENT)
def test_hook_that_only_notes_is_refused_with_its_name_and_module(how: str) -> None:
    model = Net()
    hooked = model.layers[0]
    handle = SILENT[how](hooked, Recorder())
    before = dict(hooked._forward_hooks), dict(hooked._forward_pre_hooks)
    attach(model)
    try:
        with pytest.raises(GraphBuildError) as caught:
            model(X)
    finally:
        if how.startswith("all"):
            handle.remove()

    message = str(caught.value)
    assert f"{__name__}.Recorder" in message
    assert "where: layers.0 (Linear)" in message
    assert "take it off" in message
    assert (dict(hooked._forward_hooks), dict(hooked._forward_pre_hooks)) == before


def test_hook_that_writes_in_place_is_in_the_graph() -> None:
    def doubled(module: nn.Module, given: Any, output: torch.Tensor) -> None:
        output.mul_(2)

    model = Net()
    model.layers[0].register_forward_hook(doubled)
    reference = copy.deepcopy(model)
    attach(model)
    for _ in range(2):
        assert model(X).item() == pytest.approx(reference(X).item(), rel=1e-5)


NOTED: list[Any] = []


def notes_in_a_global(module: nn.Module, given: Any, output: torch.Tensor) -> torch.Tensor:
    NOTED.append(output.detach())
    return output * 2


def counts(recorder: Recorder) -> Callable[..., Any]:
    count = 0

    def hook(module: nn.Module, given: Any, output: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        return output * 2

    return hook


def sums(total: torch.Tensor) -> Callable[..., Any]:
    def hook(module: nn.Module, given: Any, output: torch.Tensor) -> torch.Tensor:
        total.add_(output.detach().sum())
        return output * 2

    return hook


RECORDS: dict[str, tuple[Callable[[Recorder], Callable[..., Any]], str]] = {
    "object": (lambda r: lambda m, g, y: (r.calls.append(y), 2 * y)[1], "r.calls"),
    "global": (lambda r: notes_in_a_global, "NOTED"),
    "count": (counts, "count"),
    "tensor": (lambda r: sums(torch.zeros(())), "total"),
    "partial": (
        lambda r: functools.partial(lambda seen, m, g, y: (seen.append(y), 2 * y)[1], r.calls),
        "its argument 0",
    ),
}


@pytest.mark.parametrize("how", RECORDS)
def test_hook_that_changes_and_notes_is_refused_with_what_it_notes(how: str) -> None:
    make, noted = RECORDS[how]
    model = Net()
    model.layers[0].register_forward_hook(make(Recorder()))
    attach(model)
    with pytest.raises(GraphBuildError, match=f"changes {noted}.* beside what it returns"):
        model(X)


def test_hook_that_changes_by_what_it_keeps_is_in_the_graph() -> None:
    kept = {"factor": 3, "weights": [torch.ones(3), 2.0]}
    model = Net()
    model.layers[0].register_forward_hook(lambda m, g, y: y * kept["factor"] * kept["weights"][0])
    reference = copy.deepcopy(model)
    attach(model)
    for _ in range(2):
        assert model(X).item() == pytest.approx(reference(X).item(), rel=1e-5)


def test_hook_that_only_notes_on_the_model_itself_runs_each_step() -> None:
    model, recorder = Net(), Recorder()
    model.register_forward_hook(recorder.nothing)
    model.register_forward_pre_hook(recorder.nothing)
    attach(model)
    for steps in (1, 2, 3):
        model(X).backward()
        assert len(recorder.calls) == 2 * steps


def test_hook_put_on_or_taken_off_between_steps_is_seen() -> None:
    model = Net()
    reference = copy.deepcopy(model)
    forward = attach(model)

    def both() -> None:
        assert model(X).item() == pytest.approx(reference(X).item(), rel=1e-5)

    both()
    for factor in (2, 3):  # the second in the place of the first
        handles = [
            m.layers[0].register_forward_hook(lambda _, __, h, factor=factor: factor * h)
            for m in (model, reference)
        ]
        both()
        for handle in handles:
            handle.remove()
    both()
    assert len(forward.graphs) == 3
    assert "layers.0.forward hooks from None to " in forward.re_exports[0]
    assert "<lambda>" in forward.re_exports[0]


COLLECTS: dict[str, tuple[Any, Callable[[Any, torch.Tensor], Any]]] = {
    "list": ([], lambda m, h: m.seen.append(h.detach())),
    "list of numbers": ([], lambda m, h: m.seen.append(1.0)),
    "deque": (deque(), lambda m, h: m.seen.append(h)),
    "dict of lists": (defaultdict(list), lambda m, h: m.seen["h"].append(h)),
    "entry": ({"h": 0}, lambda m, h: m.seen.update(h=h)),
    "count": ({"steps": 0}, lambda m, h: m.seen.update(steps=m.seen["steps"] + 1)),
    "list anew": ([], lambda m, h: setattr(m, "seen", [h])),
}


@pytest.mark.parametrize("how", COLLECTS)
def test_what_a_forward_pass_collects_is_refused(how: str) -> None:
    seen, between = COLLECTS[how]
    model = Net(between)
    model.seen = seen
    attach(model)
    with pytest.raises(GraphBuildError, match="changes the attribute seen"):
        model(X)


def test_cache_that_the_first_pass_fills_is_let_through() -> None:
    model = Net(lambda m, h: m.seen.setdefault("rows", h.shape[0]))
    model.seen = {}
    forward = attach(model)
    for _ in range(2):
        model(X).backward()
    assert len(forward.graphs) == 1
