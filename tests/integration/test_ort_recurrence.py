"""LSTM, GRU and RNN under `ort`: outputs, all gradients, two shapes and one graph."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from acpt_trainer import GraphBuildError
from acpt_trainer.ort import patches
from acpt_trainer.ort.forward import attach


@pytest.fixture(autouse=True)
def _no_patch_is_left() -> Iterator[None]:
    yield
    while patches.active():
        patches.stop()


class Recurrent(nn.Module):
    """A stack of layers and the states that it begins with, which are trained or left out."""

    def __init__(self, kind: str, learned: bool = False, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = getattr(nn, kind)(6, 5, **options)
        self.rows = 0 if self.layers.batch_first else 1
        count = self.layers.num_layers * (1 + self.layers.bidirectional)
        states = 2 if kind == "LSTM" else 1
        self.states = nn.ParameterList(torch.randn(count, 1, 5) for _ in range(states * learned))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        begin = tuple(s.repeat(1, x.shape[self.rows], 1) for s in self.states)
        y, end = self.layers(x, (begin if len(begin) > 1 else begin[0]) if begin else None)
        ends = end if isinstance(end, tuple) else (end,)
        return torch.cat([t.flatten() for t in (y, *ends)])


class Stepwise(nn.Module):
    """A cell in a loop over three steps."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = getattr(nn, kind)(6, 5, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state, found = None, []
        for step in x[:3]:
            state = self.cell(step, state)
            found.append(state[0] if isinstance(state, tuple) else state)
        return torch.stack(found)


def agrees(model: nn.Module, wanted: bool = True) -> None:
    reference = copy.deepcopy(model)
    forward = attach(model)
    for shape in ((7, 3, 6), (4, 2, 6)):
        x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
        found = []
        for m in (model, reference):
            m.zero_grad()
            given = x.clone().requires_grad_(wanted)
            y = m(given)
            (y * torch.linspace(0.5, 1.5, y.numel()).view_as(y)).sum().backward()
            found.append([y.detach(), given.grad, *(p.grad for p in m.parameters())])
        for ours, theirs in zip(*found, strict=True):
            assert (ours is None) == (theirs is None)
            if theirs is not None:
                torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert forward.calls == 2
    assert len(forward.graphs) == 1, forward.re_exports


def test_both_directions_of_two_layers_train_from_learned_states() -> None:
    agrees(Recurrent("LSTM", learned=True, num_layers=2, bidirectional=True, batch_first=True))


@pytest.mark.parametrize("frozen", ["weight", "hh", ""], ids=["weights", "one weight", "all"])
@pytest.mark.parametrize("kind", ["LSTM", pytest.param("GRU", marks=pytest.mark.long)])
def test_layer_with_frozen_weights_trains_the_rest(kind: str, frozen: str) -> None:
    model = Recurrent(kind, learned=True)
    for name, parameter in model.layers.named_parameters():
        parameter.requires_grad_(frozen not in name)
    agrees(model, wanted=False)


@pytest.mark.long
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"bidirectional": True},
        {"num_layers": 2},
        {"batch_first": True, "num_layers": 2, "bidirectional": True},
        {"learned": True, "num_layers": 2, "bidirectional": True},
    ],
    ids=lambda options: " ".join(options) or "plain",
)
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_agree_with_pytorch(kind: str, options: dict[str, Any]) -> None:
    agrees(Recurrent(kind, **options))


@pytest.mark.long
def test_recurrent_layer_takes_one_sequence_without_a_batch() -> None:
    model = nn.GRU(6, 5)
    reference = copy.deepcopy(model)
    attach(model)
    x = torch.randn(4, 6)
    torch.testing.assert_close(model(x), reference(x))


@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "options"),
    [("LSTMCell", {}), ("GRUCell", {}), ("RNNCell", {}), ("RNNCell", {"nonlinearity": "relu"})],
    ids=["LSTM", "GRU", "RNN", "RNN (relu)"],
)
def test_cells_agree_with_pytorch(kind: str, options: dict[str, Any]) -> None:
    agrees(Stepwise(kind, **options))


def test_dropout_between_layers_drops_what_the_second_takes() -> None:
    model = nn.LSTM(6, 5, num_layers=2, dropout=1 - 1e-6)
    reference = nn.LSTM(6, 5, num_layers=2)
    reference.load_state_dict(model.state_dict())
    forward = attach(model)
    x = torch.randn(4, 2, 6)
    y, _ = model(x)
    y.sum().backward()

    alone = nn.LSTM(5, 5)  # the second layer, given nothing
    alone.load_state_dict({k[:-1] + "0": v for k, v in model.state_dict().items() if "l1" in k})
    torch.testing.assert_close(y, alone(torch.zeros(4, 2, 5))[0])
    assert not model.weight_ih_l1.grad.any()
    assert forward.calls == 1


class Packed(nn.Module):
    """Rows of different lengths, one behind the other."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM) -> None:
        super().__init__()
        self.layer = kind(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = nn.utils.rnn.pack_padded_sequence(x, torch.tensor([4, 2]))
        return nn.utils.rnn.pad_packed_sequence(self.layer(rows)[0])[0]


@pytest.mark.parametrize(
    ("model", "way_out"),
    [
        (lambda: nn.LSTM(6, 5, proj_size=3), "nn.Linear behind the layer"),
        (lambda: nn.RNN(6, 5, nonlinearity="relu"), "use nonlinearity='tanh'"),
        (Packed, "leave the padding out of the loss"),
        (lambda: Packed(nn.GRU), r"leave the padding .*\n.*layer \(GRU\), .*in forward"),
    ],
    ids=["projections", "relu", "packed", "packed for GRU"],
)
def test_recurrence_without_a_gradient_is_refused_with_a_way_out(model: Any, way_out: str) -> None:
    refused = model()
    attach(refused)
    with pytest.raises(GraphBuildError, match=way_out):
        refused(torch.randn(4, 2, 6))
