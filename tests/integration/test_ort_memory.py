"""The memory of a real training graph is what a hand count gives."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from acpt_trainer.ort.forward import attach


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(30, 50), nn.Linear(50, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.second(torch.tanh(self.first(x)))).sum()


@pytest.mark.parametrize("rows", [4, 16])
def test_memory_of_a_perceptron_is_as_counted_by_hand(rows: int) -> None:
    model = Perceptron()
    forward = attach(model)
    model(torch.zeros(rows, 30)).backward()
    (graph,) = forward.graphs.values()
    summary = graph.summary
    assert summary is not None
    # The outputs of tanh and sigmoid; their inputs are needed for nothing.
    assert summary.activations_mb == pytest.approx(rows * (50 + 10) * 4 / 1e6)
    assert summary.activations_unsized == 0
    weights = (30 * 50 + 50 + 50 * 10 + 10) * 4
    constants = summary.weights_mb * 1e6 - weights
    assert 0 <= constants < 200, "axes and the like"


def resident() -> int:
    """Bytes of this process, after memory that is free went back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resident_memory_grows_by_what_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Perceptron()
    forward = attach(model)
    from onnxruntime.training.ortmodule._graph_execution_manager import GraphExecutionManager

    session_config = GraphExecutionManager._get_session_config

    def without_arena(self: Any) -> Any:
        options, *rest = session_config(self)
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
        return options, *rest

    monkeypatch.setattr(GraphExecutionManager, "_get_session_config", without_arena)
    ctypes.CDLL(None).mallopt(-3, 65_536)  # larger blocks are given back when they are freed
    x = torch.zeros(200_000, 30)
    model(x).backward()
    before = resident()
    loss = model(x)
    grown = (resident() - before) / 1e6
    loss.backward()
    (graph,) = forward.graphs.values()
    assert graph.summary is not None
    assert grown == pytest.approx(graph.summary.activations_mb, rel=0.05)
