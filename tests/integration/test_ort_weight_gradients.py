"""Gradients of large weights, which PyTorch computes in the middle of ONNX Runtime's graph."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from acpt_trainer import GraphBuildError
from acpt_trainer.ort import reused, torch_calls, weight_gradients
from acpt_trainer.ort.forward import attach

CLASSES, WIDTH = 512, 256


class Tied(nn.Module):
    """An embedding, used twice, whose weight is the head's, a layer with a bias, a small one."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(CLASSES, WIDTH)
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.small = nn.Linear(WIDTH, WIDTH // 2)
        self.back = nn.Linear(WIDTH // 2, WIDTH)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.layer(self.embedding(ids)))
        x = x + self.embedding(ids.flip(0)).mean(1, keepdim=True)
        x = x + self.back(torch.tanh(self.small(x)))
        scores = functional.linear(x, self.embedding.weight)
        return functional.cross_entropy(scores.flatten(0, 1), ids.flatten())


def ids(batch: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(batch * length)
    return torch.randint(0, CLASSES // 2, (batch, length), generator=generator)


@pytest.fixture
def models() -> tuple[nn.Module, nn.Module, Any]:
    torch.manual_seed(0)
    plain = Tied().train()
    ours = copy.deepcopy(plain)
    return plain, ours, attach(ours)


def nodes(forward: Any) -> list[Any]:
    (graph,) = forward.graphs.values()
    manager = graph.module._torch_module._execution_manager(True)
    graph = manager._onnx_models.optimized_model.graph
    ours = weight_gradients.OPERATOR.encode()
    return [n for n in graph.node if ours in (a.s for a in n.attribute)]


def test_gradients_are_pytorchs_and_computed_by_it(models: Any) -> None:
    plain, ours, forward = models
    for batch in (ids(2, 8), ids(3, 5)):
        for model in (plain, ours):
            model(batch).backward()  # the second is added to the first
    calls = nodes(forward)
    assert len(calls) == 2  # the small layers' are not worth a call
    assert sorted(len(call.input) for call in calls) == [2, 6]  # with rows of two look-ups: 6
    for (name, one), (_, other) in zip(
        plain.named_parameters(), ours.named_parameters(), strict=True
    ):
        torch.testing.assert_close(other.grad, one.grad, msg=lambda m, name=name: f"{name}: {m}")


def test_memory_of_a_gradient_is_used_again_once_it_is_free(models: Any) -> None:
    _, ours, _ = models
    weight = ours.layer.weight
    ours(ids(2, 8)).backward()
    kept, numbers = weight.grad, weight.grad.clone()
    weight.grad = None
    ours(ids(3, 5)).backward()
    assert weight.grad.data_ptr() != kept.data_ptr()
    torch.testing.assert_close(kept, numbers, rtol=0, atol=0)
    del kept
    weight.grad = None
    ours(ids(2, 8)).backward()
    torch.testing.assert_close(weight.grad, numbers)
    assert len(reused._memory[tuple(weight.shape)]) == 2


def test_failure_inside_the_graph_stops_the_step(
    models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: torch.Tensor) -> torch.Tensor:
        raise ValueError("no such product")

    _, ours, _ = models
    ours(ids(2, 8)).backward()
    monkeypatch.setitem(torch_calls._functions, weight_gradients.OPERATOR.encode(), fails)
    loss = ours(ids(2, 8))
    with pytest.raises(GraphBuildError, match="no such product"):
        loss.backward()
