"""Gradients end in ONNX Runtime where they end in PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from acpt_trainer.ort.cache import ExportCache
from acpt_trainer.ort.forward import attach, detach


def no_grad(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return layer(x)


def written_before(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    buffer = torch.zeros_like(x)
    buffer[:, 1:] = layer(x)[:, 1:]
    with torch.no_grad():
        return buffer * 2


def norm_in_no_grad(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():  # ONNX Runtime has no gradient of a norm
        return torch.linalg.norm(layer(x), dim=-1, keepdim=True)


class Stopped(nn.Module):
    """A product of two layers of which one is cut off by `stop`, beside its uncut self."""

    def __init__(self, stop: Callable[[nn.Module, torch.Tensor], torch.Tensor], beside: bool):
        super().__init__()
        torch.manual_seed(0)
        self.stopped, self.flowing = nn.Linear(4, 4), nn.Linear(4, 4)
        self.stop, self.beside = stop, beside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        product = self.stop(self.stopped, x) * self.flowing(x)
        return (product + self.stopped(x) if self.beside else product).pow(2).mean()


STOPS = {
    "detach": lambda layer, x: layer(x).detach(),
    "no_grad": no_grad,
    "data": lambda layer, x: layer(x).data,
    "integers": lambda layer, x: (layer(x) * 4).long().float(),
    "written_before": written_before,
    "norm": lambda layer, x: torch.linalg.norm(layer(x), dim=-1, keepdim=True).detach(),
    "norm_in_no_grad": norm_in_no_grad,
    # An infinite slope behind the end: a gradient of zero would make NaN of it.
    "root_of_zero": lambda layer, x: 1 + (layer(x) * 0).sqrt().detach(),
    "extreme": lambda layer, x: layer(x).amax((0, 1)).detach(),
    "twice": lambda layer, x: (layer(x).detach() * layer(x)).detach(),
}


@pytest.mark.parametrize("beside", [True, False], ids=["beside", "alone"])
@pytest.mark.parametrize("stop", STOPS)
def test_gradient_ends_where_autograds_does(stop: str, beside: bool) -> None:
    ours = Stopped(STOPS[stop], beside)
    theirs = copy.deepcopy(ours)
    attach(ours)

    for rows in (3, 5):
        x = torch.randn(rows, 4, generator=torch.Generator().manual_seed(rows))
        for model in (ours, theirs):
            model.zero_grad(set_to_none=True)
            model(x=x).backward()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            if b.grad is None:
                assert a.grad is None
            else:
                torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-7)
    detach(ours)


def test_values_written_in_place_keep_their_gradient() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.layer(x)
            shifted = torch.zeros_like(y)
            shifted[:, 1:] = y[:, :-1]
            return (shifted * y).pow(2).mean()

    ours = Shifted()
    theirs = copy.deepcopy(ours)
    attach(ours)
    for model in (ours, theirs):
        model(x=torch.ones(3, 5, 4)).backward()

    torch.testing.assert_close(ours.layer.weight.grad, theirs.layer.weight.grad)
    detach(ours)


def test_value_that_is_no_number_is_one_behind_the_end_too() -> None:
    ours = Stopped(lambda layer, x: layer(x).sqrt().detach(), beside=False)
    theirs = copy.deepcopy(ours)
    attach(ours)

    x = torch.ones(3, 4)
    assert theirs(x).isnan()
    assert ours(x=x).isnan()
    detach(ours)


def test_gradient_ends_in_an_export_from_the_cache_too(tmp_path: Path) -> None:
    for expected in ("miss", "hit"):
        ours = Stopped(no_grad, beside=False)
        forward = attach(ours, cache=ExportCache(tmp_path))
        ours(x=torch.ones(3, 4)).backward()

        assert [graph.cache_use for graph in forward.graphs.values()] == [expected]
        assert ours.stopped.weight.grad is None
        assert ours.flowing.weight.grad is not None
        detach(ours)
