"""Writes of a forward pass that a graph would lose are refused under `ort`."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from parity import numbers
from torch import nn
from torch.nn import functional

from acpt_trainer import GraphBuildError
from acpt_trainer.ort.forward import attach


class Pair(nn.Module):
    """Two layers; a subclass says what is done with them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)


def x() -> torch.Tensor:
    return numbers(2, 3)


class Counting(Pair):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        return self.first(x).sum() * self.steps


class Averaging(Counting):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps = self.steps * 0.9
        return self.first(x).sum() + self.steps


class Renormed(Pair):
    """Its embedding shortens rows in a function of torch's, where no write is traced."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        table = self.first.weight * 1.0
        y = functional.embedding(torch.tensor([0, 2]), table, max_norm=0.1)
        return y.sum() + self.second(x).sum()


class DataSet(Pair):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        y.data = y.data * 2
        return self.second(y).sum()


class WeightSet(Pair):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.first.weight.data = self.first.weight.data.clamp(-0.1, 0.1)
        return self.first(x).sum()


class BatchNormed(Pair):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return functional.batch_norm(y, torch.zeros(3), torch.ones(3), training=True)[0].sum()


SEEN = torch.zeros(2)


class Global(Pair):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        SEEN[0] = SEEN[0] + 1
        return self.first(x).sum() * SEEN[0]


class GlobalAdded(Pair):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x).sum() * SEEN.add_(1.0)[0]


WRITES = {
    Counting: r"changes its own tensor 'steps' \(add_\)",
    Renormed: "has embedding write into an argument",
    DataSet: r"puts other numbers into a tensor \(data = ...\)",
    WeightSet: r"puts other numbers into a tensor \(data = ...\)",
    BatchNormed: "batch_norm: running statistics",
    Global: r"changes a tensor that is fixed in its graph \(__setitem__\)",
    GlobalAdded: r"changes a tensor that is fixed in its graph \(add_\)",
}


@pytest.mark.parametrize("kind", WRITES, ids=lambda kind: kind.__name__)
def test_write_that_a_graph_would_not_make_is_refused_with_its_line(kind: type[Pair]) -> None:
    model = kind()
    attach(model)
    with pytest.raises(GraphBuildError, match=rf"{WRITES[kind]}(?s:.*)test_ort_writes\.py:\d+"):
        model(x())


def test_write_into_a_constant_is_made_once() -> None:
    class Written(Pair):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            w = torch.tensor([1.0, 2.0, 3.0])
            w.mul_(2.0)
            w[0] += w[1]
            return (self.first(x) * w).sum()

    model = Written()
    reference = copy.deepcopy(model)
    attach(model)
    assert model(x()).item() == pytest.approx(reference(x()).item(), rel=1e-5)


def test_write_into_an_argument_is_told_and_stays_in_the_graph(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Emptied(Pair):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x[:, 0] = 0.0
            return self.first(x).sum()

    model = Emptied()
    reference = copy.deepcopy(model)
    attach(model)
    for _ in range(2):
        assert model(x()).item() == pytest.approx(reference(x()).item(), rel=1e-5)
    assert caplog.text.count("writes into its arguments x;") == 1


@pytest.mark.parametrize(
    ("layer", "what"),
    [
        (lambda: nn.Embedding(3, 3, max_norm=0.5), r"'layer.weight' \(embedding\)"),
        (lambda: nn.EmbeddingBag(3, 3, max_norm=0.5), r"'layer.weight' \(embedding_bag\)"),
        (lambda: nn.BatchNorm1d(3), r"'layer.num_batches_tracked'"),
        (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)), r"\.0\._u'"),
        (lambda: nn.utils.spectral_norm(nn.Linear(3, 3)), "'layer.weight_v'"),
        (lambda: nn.LazyLinear(3), "layer.weight is made by the first forward pass"),
    ],
    ids=["embedding", "embedding_bag", "batch_norm", "spectral_norm", "old spectral_norm", "lazy"],
)
def test_layer_that_changes_itself_is_refused_by_its_path(layer: Any, what: str) -> None:
    class Layered(Pair):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            whole = isinstance(self.layer, (nn.Embedding, nn.EmbeddingBag))
            return self.layer(torch.tensor([[0, 2]]) if whole else self.first(x)).sum()

    model = Layered()
    attach(model)
    with pytest.raises(GraphBuildError, match=rf"{what}(?s:.*)where: layer"):
        model(x())


@pytest.mark.parametrize("kind", [Counting, Averaging])
def test_forward_that_changes_a_buffer_is_refused_and_changes_nothing(kind: type[Pair]) -> None:
    model = kind()
    attach(model)
    with pytest.raises(GraphBuildError, match="changes its own tensor 'steps'"):
        model(x())
    assert model.steps.item() == 0
