"""The seam with Accelerate, on a made-up accelerator: proof of what ran, and the report."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from acpt_trainer.accelerator import strategy_report
from acpt_trainer.errors import NotEngagedError
from acpt_trainer.integration import optimizer_state_bytes
from acpt_trainer.strategies.base import StrategyStatus

from .made_up_accelerator import Accelerator, bind

ENGAGED = StrategyStatus.engaged({"steps": 1})


@pytest.mark.parametrize(
    "said",
    [
        StrategyStatus.pending("no step of mine yet"),
        StrategyStatus.fell_back("it ran elsewhere"),
    ],
    ids=lambda s: str(s.status),
)
def test_verify_raises_with_the_reason_unless_engaged(said: StrategyStatus) -> None:
    _, _, binding = bind(nn.Linear(1, 1), said=said)
    with pytest.raises(NotEngagedError) as caught:
        binding.verify()
    for part in ("'made_up'", str(said.status), str(said.reason), "where:", "fix:"):
        assert part in str(caught.value)


def test_verify_passes_when_engaged_and_asks_once() -> None:
    _, strategy, binding = bind(nn.Linear(1, 1), said=ENGAGED)
    binding.verify()
    strategy.said = StrategyStatus.fell_back("later")
    binding.verify()
    assert binding.report().status == "fell_back"  # not asked again, and not forgotten


def test_verify_asks_again_after_another_prepare() -> None:
    model = nn.Linear(1, 1)
    accelerator, strategy, binding = bind(model, said=ENGAGED)
    binding.verify()
    strategy.said = StrategyStatus.pending("prepared anew")
    accelerator.prepare(model)
    with pytest.raises(NotEngagedError, match="prepared anew"):
        binding.verify()


@pytest.mark.parametrize(
    ("processes", "parallel", "alone"),
    [(1, False, False), (2, True, False), (2, False, True), (1, True, False)],
)
def test_verify_notices_processes_that_train_alone(
    processes: int, parallel: bool, alone: bool
) -> None:
    model = nn.Linear(1, 1)
    accelerator, _, binding = bind(model, Accelerator(processes, parallel), said=ENGAGED)
    accelerator.prepare(model)
    if alone:
        with pytest.raises(NotEngagedError, match=r"each of the 2 processes trains alone.*DDP"):
            binding.verify()
    else:
        binding.verify()


def test_report_says_what_ran() -> None:
    model = nn.Linear(1, 1)
    accelerator, strategy, binding = bind(model, Accelerator(2), said=ENGAGED, level=4)
    strategy.label = "kettle"
    accelerator.prepare(model)
    report = binding.report()
    assert report.to_dict() | {"versions": {}} == {
        "strategy": "kettle",
        "status": "engaged",
        "reason": None,
        "precision": "fp32",
        "device": "cpu",
        "world_size": 2,
        "parallel": "Parallel",
        "options": {"level": 4},
        "evidence": {"steps": 1},
        "optimizer_state_bytes": 0,
        "checkpoint_format": "torch",
        "asked": None,
        "choice": {},
        "versions": {},
    }
    assert report.versions["torch"]
    assert strategy_report(accelerator) == report


def test_report_counts_the_prepared_optimizer() -> None:
    parameter = nn.Parameter(torch.ones(10))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.sum().backward()
    optimizer.step()
    accelerator, _, binding = bind(nn.Linear(1, 1))
    accelerator.prepare(SimpleNamespace(optimizer=optimizer), optimizer)
    assert binding.report().optimizer_state_bytes == 40


def test_strategy_report_needs_a_strategy() -> None:
    with pytest.raises(ValueError, match="no strategy is bound to this accelerator"):
        strategy_report(Accelerator())  # type: ignore[arg-type]


def test_release_closes_the_strategy() -> None:
    _, strategy, binding = bind(nn.Linear(1, 1))
    binding.release()
    assert strategy.calls == ["close made_up"]


def test_optimizer_state_bytes_sees_through_wrappers() -> None:
    parameter = nn.Parameter(torch.ones(10))
    optimizer = torch.optim.AdamW([parameter])
    assert optimizer_state_bytes(optimizer) == 0
    parameter.sum().backward()
    optimizer.step()
    nested = SimpleNamespace(optimizer=SimpleNamespace(optimizer=optimizer))
    assert optimizer_state_bytes(nested) == optimizer_state_bytes(optimizer) == 84  # and its step
    assert optimizer_state_bytes(None) == 0
    assert optimizer_state_bytes(object()) == 0
