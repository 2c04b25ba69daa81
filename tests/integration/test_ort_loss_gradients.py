"""Gradients of a language model's scores, which a node of ours writes in one pass."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from acpt_trainer.ort import loss_gradients, reused
from acpt_trainer.ort.forward import attach

WORDS = 400


class Scores(nn.Module):
    """A head that returns a loss of its labels, numbers without a gradient, and the scores."""

    def __init__(self, **how: Any) -> None:
        super().__init__()
        self.head, self.how = nn.Linear(8, WORDS), how

    def forward(
        self, x: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scores = self.head(x)
        rows = scores.reshape(-1, WORDS)
        loss = functional.cross_entropy(rows, labels.reshape(-1), **self.how)
        return loss, scores.argmax(-1), scores


def batch(rows: int, length: int, ignored: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows * length)
    labels = torch.randint(0, WORDS, (rows, length), generator=generator)
    if ignored:
        labels[:, ::3] = -100
    return torch.randn(rows, length, 8, generator=generator), labels


def operators(forward: Any) -> dict[str, int]:
    (graph,) = forward.graphs.values()
    return graph.summary.aten_ops


def gradients(model: nn.Module, make: Callable[..., torch.Tensor], **kind: bool) -> list[Any]:
    found = []
    for rows, length in ((2, 700), (3, 5)):  # more than is written at once, and less
        model.zero_grad()
        make(*model(*batch(rows, length, **kind))).backward()
        found += [p.grad.clone() for p in model.parameters()]
    return found


def compared(make: Callable[[], nn.Module], *batches: tuple[torch.Tensor, ...]) -> dict[str, int]:
    """Operators of the graph of a model, whose gradients are PyTorch's."""
    torch.manual_seed(0)
    plain = make().train()
    ours = copy.deepcopy(plain)
    forward = attach(ours)
    for inputs in batches:
        for model in (plain, ours):
            model.zero_grad()
            model(*inputs).backward()
        for one, other in zip(plain.parameters(), ours.parameters(), strict=True):
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6)
    return operators(forward)


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "the loss": lambda loss, best, scores: loss,
    "a share of the loss": lambda loss, best, scores: loss / 7,
    "loss and scores": lambda loss, best, scores: loss + scores.square().mean(),
    "the scores": lambda loss, best, scores: scores.square().mean(),
}


@pytest.mark.parametrize("make", LOSSES.values(), ids=LOSSES)
def test_gradients_are_pytorchs_whatever_is_used(make: Callable[..., torch.Tensor]) -> None:
    torch.manual_seed(0)
    plain = Scores().train()
    ours = copy.deepcopy(plain)
    forward = attach(ours)
    expected = gradients(plain, make)
    torch.testing.assert_close(gradients(ours, make), expected, rtol=1e-4, atol=1e-7)
    assert operators(forward)[loss_gradients.OPERATOR] == 1


HOW = {
    "sum": {"reduction": "sum"},
    "weights": {"weight": torch.linspace(0.1, 2, WORDS)},
    "another ignored": {"ignore_index": 7},
}


@pytest.mark.parametrize("how", HOW.values(), ids=HOW)
def test_labels_may_be_ignored_and_weighted(how: dict[str, Any]) -> None:
    torch.manual_seed(0)
    plain = Scores(**how).train()
    ours = copy.deepcopy(plain)
    forward = attach(ours)
    ignored = "ignore_index" not in how
    expected = gradients(plain, LOSSES["the loss"], ignored=ignored)
    found = gradients(ours, LOSSES["the loss"], ignored=ignored)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert operators(forward)[loss_gradients.OPERATOR] == 1


class Candidates(nn.Module):
    """Picks several words of a row, one of them twice."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.head, self.number = nn.Linear(8, WORDS), number

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logarithms = self.head(x).reshape(-1, WORDS).log_softmax(-1)
        steps = torch.arange(self.number, device=x.device) // 2
        picked = logarithms.gather(1, (labels.reshape(-1, 1) + steps) % WORDS)
        return (picked * picked.detach()).mean()


@pytest.mark.parametrize("number", [3, WORDS])
def test_several_may_be_picked_of_a_row(number: int) -> None:
    found = compared(lambda: Candidates(number), batch(2, 6), batch(3, 5))
    assert found[loss_gradients.OPERATOR] == 1


class Penalized(nn.Module):
    """Uses the logarithms for more than the labels, and picks elsewhere, too."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, WORDS)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        scores = self.head(x)
        logarithms = functional.log_softmax(scores.reshape(-1, WORDS), -1)
        picked = scores.gather(1, labels[..., None].expand(-1, -1, WORDS) % x.shape[1])
        return logarithms.gather(-1, labels.reshape(-1, 1)).mean() + (
            logarithms.exp() * logarithms
        ).mean() + picked.square().mean()  # fmt: skip


def test_what_is_not_a_plain_cross_entropy_is_left_as_it_is() -> None:
    found = compared(Penalized, batch(2, 6), batch(3, 5))
    assert loss_gradients.OPERATOR not in found
    assert found["acpt_GatherElementsGrad_1"] == found["acpt_GatherElementsGrad_-1"] == 1


def test_classes_of_more_axes_are_left_as_they_are() -> None:
    class Pictures(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 3, 1, 1))

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            return functional.cross_entropy(functional.conv2d(x, self.weight), labels)

    pictures = [
        (torch.randn(rows, 3, size, size), torch.randint(0, 5, (rows, size, size)))
        for rows, size in ((2, 4), (3, 6))
    ]
    assert loss_gradients.OPERATOR not in compared(Pictures, *pictures)


def test_memory_of_many_lengths_is_that_of_the_longest() -> None:
    reused.clear()
    torch.manual_seed(0)
    model = Scores().train()
    attach(model)
    for length in (5, 40, 7, 60, 41):
        model(*batch(2, length))[0].backward()
    (storage,) = reused._memory[loss_gradients.OPERATOR, WORDS]
    assert storage.nbytes() == 2 * 60 * WORDS * 4


def test_outputs_are_counted_with_those_that_have_no_gradient() -> None:
    from onnx import helper

    node = helper.make_node(
        "YieldOp", list("abcd"), list("wxy"), non_differentiable_outputs=[1], full_shape_outputs=[0]
    )
    graph = helper.make_graph([node], "graph", [], [])
    assert loss_gradients.without_shape(graph) == {2, 3}
    loss_gradients._take_a_number_for_none(node, "w")
    assert loss_gradients.without_shape(helper.make_graph([node], "graph", [], [])) == {0, 2, 3}
