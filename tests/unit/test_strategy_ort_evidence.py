"""`ort` without an engine: the evidence that it reads of a made-up forward pass."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from acpt_trainer.ort import patches
from acpt_trainer.ort.call import Record
from acpt_trainer.ort.graph import GraphSummary
from acpt_trainer.ort.reads import Guard
from acpt_trainer.strategies.base import Status
from acpt_trainer.strategies.ortmodule import OrtStrategy


class Forward:
    """What the evidence is read from."""

    def __init__(self, calls: int = 0, backward_calls: int = 0, graphs: int = 1) -> None:
        self.model = nn.Linear(1, 1)
        self.calls = calls
        self.backward_calls = backward_calls
        self.grad_fn = "_ORTModuleFunctionBackward" if calls else None
        self.released = 0
        self.re_exports = ["tensor arguments"] * (graphs - 1)
        self.graphs = {
            i: SimpleNamespace(
                summary=GraphSummary(10 + i, {"Gelu": 1}, export_seconds=2.0, build_seconds=1.0),
                cache_use="miss" if i else "hit",
                recompute=None,
                call=SimpleNamespace(record=Record(guards=[Guard("len()", (2.0,))], checks=["a"])),
            )
            for i in range(graphs)
        }

    def release(self) -> None:
        self.released += 1


def running(forward: Any) -> OrtStrategy:
    strategy = OrtStrategy()
    strategy._forward = forward
    return strategy


def test_status_is_pending_before_the_model_is_prepared() -> None:
    status = OrtStrategy().status()
    assert status.status is Status.PENDING
    assert "not prepared" in str(status.reason)


@pytest.mark.parametrize(
    ("calls", "backward_calls", "missed"), [(0, 0, "no forward"), (1, 0, "no backward")]
)
def test_status_is_pending_until_both_passes_ran(
    calls: int, backward_calls: int, missed: str
) -> None:
    status = running(Forward(calls, backward_calls)).status()
    assert status.status is Status.PENDING
    assert f"{missed} pass of Linear" in str(status.reason)
    assert status.evidence["forward_calls"] == calls


def test_status_is_engaged_with_evidence_of_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "active", lambda: ("no-nvtx",))
    status = running(Forward(2, 1, graphs=2)).status()
    assert status.status is Status.ENGAGED
    assert status.evidence == {
        "grad_fn": "_ORTModuleFunctionBackward",
        "forward_calls": 2,
        "graphs": 2,
        "graphs_limit": 8,
        "re_exports": ["tensor arguments"],
        "patches": ["no-nvtx"],
        "nodes": 11,  # of the newest graph
        "fused_ops": {"Gelu": 1},
        "aten_ops": {},
        "python_ops": 0,
        "dropout_ops": 0,
        "after_graph": [],
        "export_seconds": 4.0,  # of all graphs
        "build_seconds": 2.0,
        "weights_mb": 0.0,
        "activations_mb": 0.0,
        "activations_unsized": 0,
        "cache": "hit, miss",
        "shape_guards": 2,
        "checks_made_once": ["a"],
    }


def test_close_releases_the_forward_and_remembers_the_status() -> None:
    forward = Forward(1, 1)
    strategy = running(forward)
    before = strategy.status()
    strategy.close()
    strategy.close()  # again is allowed
    assert forward.released == 1
    assert strategy.status() == before


def test_wrap_model_replaces_forward_in_place_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "start", lambda: ())
    monkeypatch.setattr(patches, "stop", lambda: None)
    model = nn.Linear(2, 2)
    own = model.forward
    strategy = OrtStrategy(max_graphs=3)
    assert strategy.wrap_model(model) is model
    first = model.__dict__["forward"]
    assert first.max_graphs == 3
    assert strategy.wrap_model(model).__dict__["forward"] is first
    strategy.close()
    assert "forward" not in model.__dict__
    assert model.forward == own


def test_status_fell_back_when_another_user_took_the_forward_off() -> None:
    forward = Forward(1, 1)
    strategy = running(forward)
    assert strategy.status().status is Status.ENGAGED
    forward.released = True
    assert strategy.status().status is Status.FELL_BACK
