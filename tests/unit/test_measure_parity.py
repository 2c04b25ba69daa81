"""Parity with eager PyTorch: what passes, and what is named where a strategy is wrong."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from acpt_trainer import NotEngagedError, StrategyStatus, register_strategy
from acpt_trainer.measure.compare import differences, distribution_fault, relative
from acpt_trainer.measure.parity import Verdict, verify
from acpt_trainer.measure.reference import Request
from acpt_trainer.measure.tolerance import tolerance_for
from acpt_trainer.strategies.eager import EagerStrategy

NAME = "transformer.h.0.mlp.c_fc.weight"


class Wrong(EagerStrategy):
    """Does one thing to the model that it should not."""

    def __init__(self, fault: Any) -> None:
        super().__init__()
        self.fault = fault

    def wrap_model(self, model: nn.Module) -> nn.Module:
        self.fault(model)
        return model


def gradient(model: nn.Module) -> None:
    model.get_parameter(NAME).register_hook(lambda g: g * 1.001)


def step(model: nn.Module) -> None:
    def late(parameter: torch.Tensor) -> None:
        parameter.grad.mul_(0.9)

    model.get_parameter(NAME).register_post_accumulate_grad_hook(late)


def no_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def same_masks(model: nn.Module) -> None:
    model.register_forward_pre_hook(lambda *_: torch.manual_seed(0) and None)


@pytest.fixture
def config(tmp_path: Path) -> str:
    file = tmp_path / "config.json"
    made = {"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 16}
    file.write_text(json.dumps({**made, "vocab_size": 32, "bos_token_id": 1, "eos_token_id": 2}))
    return str(file)


def found(config: str, fault: Any, **options: Any) -> Verdict:
    register_strategy("wrong", Wrong, override=True, fault=fault)
    return verify(Request(config, "wrong", steps=2, block_size=8, draws=16, **options))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_eager_holds(config: str, precision: str) -> None:
    verdict = found(config, lambda model: None, precision=precision)
    assert verdict.holds, verdict.faults
    assert verdict.dropout == "the same distribution of losses"
    assert (verdict.loss == 0) == (precision == "fp32")
    assert json.loads(json.dumps(verdict.to_dict()))["status"] == "holds"


def test_wrong_gradient_is_named(config: str) -> None:
    verdict = found(config, gradient)
    assert verdict.first_differing_parameter == NAME
    assert f"step 1: the gradient of {NAME} differs by 1.0e-03" in verdict.faults
    assert verdict.gradients["transformer.wte.weight"] < verdict.tolerance.gradient


def test_gradient_that_is_lost_is_named(config: str) -> None:
    verdict = found(config, lambda model: model.get_parameter(NAME).requires_grad_(False))
    assert verdict.first_differing_parameter == NAME
    assert verdict.to_dict()["gradients"][NAME] is None
    assert "only one of the two has it" in verdict.faults[0]


def test_wrong_optimizer_is_named(config: str) -> None:
    verdict = found(config, step)
    assert verdict.first_differing_parameter == NAME
    assert f"step 1: the optimizer's result for {NAME} differs by" in verdict.faults[0]


@pytest.mark.parametrize(
    ("fault", "said"), [(no_dropout, "hardly changes"), (same_masks, "hardly changes")]
)
def test_wrong_dropout_is_named(config: str, fault: Any, said: str) -> None:
    verdict = found(config, fault)
    assert len(verdict.faults) == 1
    assert said in verdict.faults[0] or "the mean loss is" in verdict.faults[0]
    assert verdict.first_differing_parameter is None


def test_strategy_that_did_not_run_is_an_error(
    config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Wrong, "status", lambda self: StrategyStatus.fell_back("for a test"))
    with pytest.raises(NotEngagedError, match="for a test"):
        found(config, lambda model: None)


def test_differences_have_a_floor() -> None:
    large, noise = torch.full((4,), 2.0), torch.full((3,), 1e-9)
    apart = differences({"a": large * 1.01, "b": -noise}, {"a": large, "b": noise})
    assert apart["a"] == pytest.approx(0.01, rel=1e-4)
    assert apart["b"] == pytest.approx(1e-6, rel=1e-3)  # against 1e-3 of the largest
    assert differences({}, {"a": large}) == {"a": math.inf}
    assert differences({"a": large}, {"a": None}) == {"a": math.inf}
    assert differences({"a": None}, {"a": None}) == {"a": 0.0}
    assert relative(1.01, 1.0) == pytest.approx(0.01)


def test_not_a_number_is_a_difference() -> None:
    apart = differences({"a": torch.tensor([math.nan])}, {"a": torch.ones(1)})
    assert not apart["a"] <= 1


def test_distributions() -> None:
    drawn = random.Random(0)
    theirs = [drawn.gauss(5, 0.1) for _ in range(24)]
    assert distribution_fault([drawn.gauss(5, 0.1) for _ in range(24)], theirs, 1e-6) is None
    assert "mean" in str(distribution_fault([x + 0.2 for x in theirs], theirs, 1e-6))
    assert "spread" in str(
        distribution_fault([5 + (x - 5) * 5 + i * 1e-9 for i, x in enumerate(theirs)], theirs, 1e-6)
    )
    assert "finite" in str(distribution_fault([math.nan] * 24, theirs, 1e-6))
    assert distribution_fault([5.0] * 24, [5.0] * 24, 1e-6) is None
    assert "do not" in str(distribution_fault([4.99, 5.01] * 12, [5.0] * 24, 1e-6))


def test_tolerance_comes_from_precision_and_model() -> None:
    small = nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 4))
    wide = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    assert tolerance_for(wide, "fp32").gradient == pytest.approx(
        4 * tolerance_for(small, "fp32").gradient
    )
    assert tolerance_for(wide, "bf16") == tolerance_for(small, "bf16")
    assert tolerance_for(small, "bf16").gradient > 1e3 * tolerance_for(small, "fp32").gradient
