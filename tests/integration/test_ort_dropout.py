"""Dropout, whose masks a node of ours draws in the middle of ONNX Runtime's graph."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from acpt_trainer.ort import dropout
from acpt_trainer.ort.forward import attach


class Dropping(nn.Module):
    """Returns what two dropouts make of the same numbers, one for each column of a parameter."""

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio
        self.weight = nn.Parameter(torch.linspace(1, 2, 6000).reshape(2, 3000))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = x * self.weight
        first, second = (functional.dropout(y, self.ratio, self.training) for _ in range(2))
        return first, second


def ours(ratio: float) -> tuple[Dropping, Any]:
    model = Dropping(ratio).train()
    return model, attach(model)


def ones(batch: int = 2) -> torch.Tensor:
    return torch.ones(batch, 2, 3000)


def operators(forward: Any) -> dict[str, int]:
    (graph,) = forward.graphs.values()
    return graph.summary.aten_ops


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_scales_the_rest_both_ways(ratio: float) -> None:
    model, forward = ours(ratio)
    for batch in (2, 5):
        first, second = model(ones(batch))
        assert operators(forward) == {dropout.OPERATOR: 2}
        plain = model.weight.detach().expand(batch, -1, -1)
        for y in (first, second):
            scaled = torch.where(y == 0, 0, plain / (1 - ratio))
            torch.testing.assert_close(y.detach(), scaled)
            share = (y == 0).float().mean().item()
            assert share == pytest.approx(ratio, abs=6 * (0.25 / y.numel()) ** 0.5)
        assert not first.equal(second)
        model.weight.grad = None
        (first * 2 + second).sum().backward()
        kept = ((first != 0) * 2.0 + (second != 0)).sum(0) / (1 - ratio)
        torch.testing.assert_close(model.weight.grad, kept)


def test_masks_follow_torchs_random_state_and_stay_with_their_forward_pass() -> None:
    model, _ = ours(0.5)
    model(ones())
    state = torch.get_rng_state()
    one, other = model(ones())[0], model(ones())[0]
    torch.set_rng_state(state)
    assert model(ones())[0].equal(one)
    assert not one.equal(other)
    for y in (other, one):
        model.weight.grad = None
        y.sum().backward()
        torch.testing.assert_close(model.weight.grad, (y != 0).sum(0) * 2.0)


@pytest.mark.parametrize(("ratio", "nodes"), [(0.0, 0), (0.001, 4)])
def test_dropout_of_nothing_or_next_to_nothing_is_not_ours(ratio: float, nodes: int) -> None:
    model, forward = ours(ratio)
    first, _ = model(ones())
    share = (first == 0).float().mean().item()
    assert share == pytest.approx(ratio, abs=0.005)
    assert not operators(forward)
    (graph,) = forward.graphs.values()
    assert graph.summary.dropout_ops == nodes


def test_mask_is_kept_as_bytes_and_becomes_numbers_after_the_outputs() -> None:
    model, forward = ours(0.5)
    model(ones())
    (graph,) = forward.graphs.values()
    built = graph.module._torch_module._execution_manager(True)._onnx_models.optimized_model
    made_by = {name: node for node in built.graph.node for name in node.output}
    factors = [n for n in built.graph.node if n.op_type == "DequantizeLinear"]
    shapes = [made_by.get(n.input[0]) for n in factors]
    taken = [
        made_by[n.input[1]].input[0] for n in shapes if n is not None and n.op_type == "Reshape"
    ]
    assert len(factors) == 4
    assert len(taken) == 2
    assert all("grad" in name for name in taken)
    assert graph.summary.activations_mb < 0.2
