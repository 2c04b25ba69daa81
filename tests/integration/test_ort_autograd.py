"""What PyTorch's autograd offers a model, under `ort`: as in PyTorch, or refused by name."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from parity import BATCHES, Net, assert_same_gradients, plain, train_both
from torch import nn

from acpt_trainer import GraphBuildError
from acpt_trainer.ort.forward import attach

Expression = Callable[[Any, torch.Tensor], Any]


def refused(model: nn.Module, match: str, batch: dict[str, Any] = BATCHES[0]) -> None:
    attach(model)
    with pytest.raises(GraphBuildError, match=match):
        model(**batch)


# --- gradients that are stopped ------------------------------------------------------------------


def target_without_gradient(m: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        target = m.two(x)
    return (m.one(x) - target).pow(2).mean()


def both_with_and_without(m: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.set_grad_enabled(False):
        target = m.one(x)
    return m.two(m.one(x) * target).pow(2).mean()


def in_inference_mode(m: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        target = m.one(x)
    return m.two(m.one(x) * target.clone()).pow(2).mean()


@torch.no_grad()
def frozen(m: Any, x: torch.Tensor) -> torch.Tensor:
    return m.one(x)


STOPS: dict[str, Expression] = {
    "detach": lambda m, x: m.two(m.one(x).detach() * m.one(x)).pow(2).mean(),
    "detach of all that a layer does": lambda m, x: m.two(m.one(x).detach()).pow(2).mean(),
    "data": lambda m, x: m.two(m.one(x).data * m.one(x)).pow(2).mean(),
    "no_grad": target_without_gradient,
    "set_grad_enabled": both_with_and_without,
    "inference_mode": in_inference_mode,
    "decorator": lambda m, x: m.two(frozen(m, x) * m.one(x)).pow(2).mean(),
    "scaled gradient": lambda m, x: (0.1 * m.one(x) + (0.9 * m.one(x)).detach()).pow(2).mean(),
}


@pytest.mark.parametrize("expression", STOPS.values(), ids=STOPS)
def test_stopped_gradient_stays_stopped(expression: Expression) -> None:
    assert len(train_both(Net(expression)).graphs) == 1


def test_detached_output_needs_no_gradient() -> None:
    model = Net(lambda m, x: (m.one(x).pow(2).mean(), m.two(x).detach()))
    reference = copy.deepcopy(model)
    attach(model)
    for m in (model, reference):
        loss, detached = m(**BATCHES[0])
        assert not detached.requires_grad
        loss.backward()
    assert_same_gradients(model, reference)
    assert model.two.weight.grad is None


# --- what a graph has no place for ---------------------------------------------------------------


class Keeping(nn.Module):
    """Changes something of its own in the forward pass."""

    count = 0

    def __init__(self, change: Expression) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("average", torch.zeros(4))
        self.steps = 0
        self.change = change

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.layer(x)
        self.change(self, h)
        return (h - self.average).pow(2).mean()


CHANGES: dict[str, tuple[Expression, str]] = {
    "buffer in place": (
        lambda m, h: m.average.mul_(0.9).add_(h.detach().mean(0)),
        "average",
    ),
    "buffer replaced": (
        lambda m, h: setattr(m, "average", 0.9 * m.average + h.detach().mean(0)),
        "average",
    ),
    "parameter in place": (lambda m, h: m.layer.bias.data.clamp_(-1, 0), "layer.bias"),
    "counter": (lambda m, h: setattr(m, "steps", m.steps + 1), "attribute steps"),
    "counter of the class": (lambda m, h: setattr(m, "count", m.count + 1), "attribute count"),
    "result in an attribute": (lambda m, h: setattr(m, "last", h.mean()), "attribute last"),
}


@pytest.mark.parametrize(("change", "name"), CHANGES.values(), ids=CHANGES)
def test_forward_that_changes_the_model_is_refused_by_name(change: Expression, name: str) -> None:
    refused(Keeping(change), rf"the forward pass .*changes .*{name}(?s:.*)no_acc")


def test_cache_that_is_filled_once_is_not_refused() -> None:
    def fill(m: Any, h: torch.Tensor) -> None:
        if not hasattr(m, "scale"):
            m.scale = torch.full((4,), 0.5)

    model = Keeping(lambda m, h: fill(m, h) or h.mul_(m.scale))
    assert len(train_both(model).graphs) == 1


def hooked(m: Any, x: torch.Tensor) -> torch.Tensor:
    h = m.one(x)
    h.register_hook(lambda gradient: 3 * gradient)
    return h.pow(2).mean()


def penalized(m: Any, x: torch.Tensor) -> torch.Tensor:
    h = m.one(x)
    (slope,) = torch.autograd.grad(h.pow(3).sum(), [h], create_graph=True)
    return (slope * m.two(h)).mean()


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        (hooked, "hook on a tensor|Tensor.register_hook"),
        (penalized, "computes gradients itself|does not require grad"),
    ],
)
def test_gradient_in_the_forward_pass_is_refused_by_name(
    expression: Expression, message: str
) -> None:
    refused(Net(expression), message)


# --- what changes between steps ------------------------------------------------------------------


def new_parameter(i: int, m: Any) -> None:
    m.one.weight = nn.Parameter(torch.full((4, 4), 0.1 * (i + 1)))


def new_layer(i: int, m: Any) -> None:
    if i == 1:
        m.two = nn.Linear(4, 4)
        nn.init.constant_(m.two.weight, 0.3)
        nn.init.zeros_(m.two.bias)


def tied(i: int, m: Any) -> None:
    if i == 1:
        m.two.weight = m.one.weight


def loaded(i: int, m: Any, assign: bool = False) -> None:
    m.load_state_dict({k: 0.9 * v for k, v in m.state_dict().items()}, assign=assign)


BETWEEN: dict[str, tuple[Callable[[int, Any], Any], int]] = {
    "parameter.data": (lambda i, m: setattr(m.one.weight, "data", torch.full((4, 4), 0.1)), 1),
    "load_state_dict": (loaded, 1),
    "load_state_dict(assign=True)": (lambda i, m: loaded(i, m, assign=True), 1),
    "another parameter": (new_parameter, 1),
    "another layer": (new_layer, 2),
    "tied parameters": (tied, 2),
    "another activation": (lambda i, m: i == 1 and setattr(m, "act", nn.ReLU()), 2),
    "number": (lambda i, m: setattr(m, "scale", 1.0 + i), 3),
    "list of numbers": (lambda i, m: setattr(m, "scales", [1.0 + i, 2.0]), 3),
    "tensor": (lambda i, m: setattr(m, "plain", torch.tensor(1.0 + i)), 3),
    "tensor in place": (lambda i, m: m.constant.fill_(1.0 + i), 3),
    "buffer": (lambda i, m: setattr(m, "buffer", torch.full((4,), 1.0 + i)), 1),
    "buffer in place": (lambda i, m: m.buffer.fill_(1.0 + i), 1),
}


def with_settings(m: Any, x: torch.Tensor) -> torch.Tensor:
    h = m.two(m.act(m.one(x))) * m.scale * m.scales[0] * m.plain * m.constant * m.buffer
    return h.pow(2).mean()


@pytest.mark.parametrize(("between", "graphs"), BETWEEN.values(), ids=BETWEEN)
def test_change_between_steps_is_seen(between: Callable[[int, Any], Any], graphs: int) -> None:
    model = Net(with_settings, act=nn.Tanh())
    model.scale, model.scales, model.plain = 1.0, [1.0, 2.0], torch.tensor(1.0)
    model.constant = torch.ones(())
    model.register_buffer("buffer", torch.ones(4))
    assert len(train_both(model, between=between, learning_rate=1e-3).graphs) == graphs


def test_change_is_announced_by_name(caplog: pytest.LogCaptureFixture) -> None:
    model = Net(lambda m, x: m.scale * plain(m, x))
    model.scale = 1.0
    attach(model, max_graphs=2)
    model(**BATCHES[0])
    model.scale = 2.0
    with caplog.at_level(logging.WARNING):
        model(**BATCHES[0])
    assert "attributes of submodules (Net.scale from 1.0 to 2.0)" in caplog.text
    model.scale = 3.0
    with pytest.raises(GraphBuildError, match=r"Net\.scale from 2\.0 to 3\.0"):
        model(**BATCHES[0])


# --- modes ---------------------------------------------------------------------------------------


def test_submodule_in_eval_mode_stays_in_it() -> None:
    def eval_of_a_part(i: int, m: Any) -> None:
        m.dropout.eval()
        m.norm.eval()

    expression: Expression = lambda m, x: m.two(m.norm(m.dropout(m.one(x)))).pow(2).mean()  # noqa: E731
    model = Net(expression, dropout=nn.Dropout(0.5), norm=nn.BatchNorm1d(4))
    model.norm.running_var.fill_(2.0)
    train_both(model, between=eval_of_a_part)
    assert [m.training for m in (model, model.one, model.dropout, model.norm)] == [
        True, True, False, False,
    ]  # fmt: skip


# --- hooks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pre", [False, True])
def test_forward_hook_that_changes_a_tensor_is_in_the_graph(pre: bool) -> None:
    model = Net(plain)
    if pre:
        model.one.register_forward_pre_hook(lambda module, given: (given[0] + 1,))
    else:
        model.one.register_forward_hook(lambda module, given, output: 2 * output)
    train_both(model)


def test_hook_of_the_whole_model_runs_each_step() -> None:
    model = Net(plain)
    model.register_forward_hook(lambda module, given, output: 2 * output)
    train_both(model)


def test_backward_hook_of_a_layer_is_refused_by_name() -> None:
    model = Net(plain)
    model.one.register_full_backward_hook(lambda module, into, out: tuple(3 * g for g in into))
    refused(model, "BackwardHookFunction")


@pytest.mark.parametrize("kind", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hook_of_a_parameter_runs(kind: str) -> None:
    def triple(value: torch.Tensor) -> torch.Tensor | None:
        if kind == "register_hook":
            return 3 * value
        value.grad.mul_(3)
        return None

    def hook(i: int, m: Any) -> None:
        if i == 0:
            getattr(m.one.weight, kind)(triple)

    train_both(Net(plain), between=hook)
