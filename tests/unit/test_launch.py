"""What the environment asks for and the strategy does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from acpt_trainer.launch import foreign_engine_problems
from acpt_trainer.registry import get_strategy


@pytest.mark.parametrize("name", ["no_acc", "ort"])
def test_deepspeed_in_the_arguments_is_refused(name: str, make_args: Callable[..., Any]) -> None:
    args = make_args()
    assert foreign_engine_problems(get_strategy(name).build(), args) == []
    args.deepspeed = "ds.json"
    (problem,) = foreign_engine_problems(get_strategy(name).build(), args)
    assert problem.what == f"strategy {name!r} is asked for together with DeepSpeed"
    assert problem.where == "TrainingArguments(deepspeed=...)"
    assert "strategy='ds'" in problem.fix


@pytest.mark.parametrize("value", ["true", "1", "YES"])
def test_deepspeed_in_the_environment_is_refused(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", value)
    (problem,) = foreign_engine_problems(get_strategy("no_acc").build())
    assert problem.where == f"ACCELERATE_USE_DEEPSPEED={value}"


def test_deepspeed_that_is_switched_off_is_no_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "false")
    assert foreign_engine_problems(get_strategy("no_acc").build()) == []


@pytest.mark.parametrize("name", ["ds", "ds_ort"])
def test_deepspeed_strategies_may_be_launched_with_deepspeed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert foreign_engine_problems(get_strategy(name).build()) == []
