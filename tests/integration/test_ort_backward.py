"""What is asked of a backward pass under `ort`: as in PyTorch, or refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from parity import Net, assert_same_gradients, assert_same_tensors, numbers, plain, weighed
from torch import nn
from torch.utils.checkpoint import checkpoint

from acpt_trainer import GraphBuildError
from acpt_trainer.ort.forward import attach


def layers(m: Any, x: torch.Tensor) -> torch.Tensor:
    return m.two(torch.tanh(m.one(x)))


def attention(m: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of which ONNX Runtime's backward pass computes in the memory of the weights."""
    weights = (m.one(x) @ m.two(x).transpose(1, 2) + x[:, :, :1]).softmax(-1)
    return weights @ x, weights


# --- what holds ----------------------------------------------------------------------------------


def two_models_at_once(m: nn.Module, x: torch.Tensor) -> Any:
    first, second = m(x), m(2 * x)
    weighed(second).backward()
    weighed(first).backward()
    return first, second


def accumulated(m: nn.Module, x: torch.Tensor) -> Any:
    for scale in (1, 2, 3):
        weighed(m(scale * x)).backward()


def fed_with_its_own_output(m: nn.Module, x: torch.Tensor) -> Any:
    output = m(m(x))
    weighed(output).backward()
    return output


def forward_without_backward(m: nn.Module, x: torch.Tensor) -> Any:
    kept = m(x)
    weighed(m(2 * x)).backward()
    return kept


def gradient_of_the_input(m: nn.Module, x: torch.Tensor) -> Any:
    return torch.autograd.grad(weighed(m(x.requires_grad_())), [x, *m.parameters()])


def hooked_output(m: nn.Module, x: torch.Tensor) -> Any:
    output = m(x)
    output.retain_grad()
    output.register_hook(lambda gradient: 2 * gradient)
    weighed(output).backward()
    return output.grad


def checkpointed_whole(m: nn.Module, x: torch.Tensor) -> Any:
    weighed(checkpoint(m, x, use_reentrant=False)).backward()


def in_anomaly_mode(m: nn.Module, x: torch.Tensor) -> Any:
    with torch.autograd.detect_anomaly(check_nan=True):
        weighed(m(x)).backward()


USES = (
    two_models_at_once, accumulated, fed_with_its_own_output, forward_without_backward,
    gradient_of_the_input, hooked_output, checkpointed_whole, in_anomaly_mode,
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
def test_backward_pass_is_as_in_pytorch(use: Callable[..., Any]) -> None:
    ours = Net(layers)
    theirs = copy.deepcopy(ours)
    forward = attach(ours)
    for rows in (2, 3):
        assert_same_tensors(use(ours, numbers(rows, 5, 4)), use(theirs, numbers(rows, 5, 4)))
        assert_same_gradients(ours, theirs)
    assert forward.calls >= 2


def test_outputs_are_not_written_into_by_the_backward_pass() -> None:
    model = Net(attention)
    attach(model)
    outputs = model(numbers(2, 5, 4))
    before = [output.detach().clone() for output in outputs]
    weighed(outputs).backward()
    assert [output.equal(b) for output, b in zip(outputs, before, strict=True)] == [True, True]


def test_output_that_is_written_into_leaves_the_gradients_right() -> None:
    ours = Net(attention)
    theirs = copy.deepcopy(ours)
    attach(ours)
    for m in (ours, theirs):
        values, weights = m(numbers(2, 5, 4))
        if m is ours:  # in PyTorch the softmax would have to be computed again
            weights.detach().zero_()
        values.pow(2).mean().backward()
    assert_same_gradients(ours, theirs)


def test_output_without_a_part_in_the_loss_gives_no_gradient_at_all() -> None:
    model = Net(lambda m, x: (m.one(x), m.two(x)))
    attach(model)
    weighed(model(numbers(2, 4))[0]).backward()
    assert model.one.weight.grad is not None
    assert model.two.weight.grad is None  # a zero would let weight decay act on it
    weighed(model(numbers(2, 4))[1]).backward()
    assert model.two.weight.grad is not None


# --- what is refused -----------------------------------------------------------------------------


def twice(m: nn.Module, x: torch.Tensor) -> Any:
    loss = weighed(m(x))
    loss.backward(retain_graph=True)
    loss.backward()


def gradient_penalty(m: nn.Module, x: torch.Tensor) -> Any:
    x.requires_grad_()
    (slope,) = torch.autograd.grad(weighed(m(x)), [x], create_graph=True)
    slope.pow(2).sum().backward()


def input_changed(m: nn.Module, x: torch.Tensor) -> Any:
    output = m(x)
    x.mul_(2)
    weighed(output).backward()


def weight_changed(m: Any, x: torch.Tensor) -> Any:
    output = m(x)
    with torch.no_grad():
        m.scale.mul_(2)
    weighed(output).backward()


def functional_call(m: nn.Module, x: torch.Tensor) -> Any:
    return torch.func.functional_call(m, {n: 2 * p for n, p in m.named_parameters()}, x)


def vmap(m: nn.Module, x: torch.Tensor) -> Any:
    return torch.vmap(m)(x)


REFUSED: dict[Callable[..., Any], str] = {
    twice: "retain_graph=True.*(?s:.*)the backward pass(?s:.*)add the losses",
    gradient_penalty: "create_graph=True",
    input_changed: "x changed in place",
    weight_changed: "scale changed in place",
    functional_call: "functional_call",
    vmap: "a transform of torch.func",
}


@pytest.mark.parametrize(
    ("use", "message"), REFUSED.items(), ids=lambda v: getattr(v, "__name__", "")
)
def test_backward_pass_that_a_graph_has_not_is_refused(
    use: Callable[..., Any], message: str
) -> None:
    model = Net(lambda m, x: layers(m, x) * m.scale)
    model.scale = nn.Parameter(torch.ones(4))
    attach(model)
    with pytest.raises(GraphBuildError, match=message):
        use(model, numbers(2, 5, 4))
    plain(model, numbers(2, 4)).backward()  # and it is as it was
