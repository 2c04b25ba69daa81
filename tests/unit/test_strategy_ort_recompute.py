"""Gradient checkpointing under `ort`: what it asks ONNX Runtime for, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from acpt_trainer.errors import Problem
from acpt_trainer.ort.recompute import level_for
from acpt_trainer.strategies import ort_recompute
from acpt_trainer.strategies.ortmodule import OrtStrategy


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORTMODULE_MEMORY_OPT_LEVEL", raising=False)
    monkeypatch.delenv("ORTMODULE_MEMORY_OPT_CONFIG", raising=False)


@pytest.fixture
def gpt2() -> Any:
    config = GPT2Config(
        n_embd=8, n_layer=2, n_head=1, vocab_size=11, n_positions=8, bos_token_id=0, eos_token_id=0
    )
    return GPT2LMHeadModel(config)


def asked(recompute: Any = None, **said: Any) -> list[Problem]:
    return ort_recompute.argument_problems(SimpleNamespace(**said), recompute)


def test_the_level_follows_option_then_environment_then_model(
    gpt2: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert level_for(gpt2) == 0
    gpt2.activation_checkpointing_enable()
    assert level_for(gpt2) == 1
    monkeypatch.setenv("ORTMODULE_MEMORY_OPT_LEVEL", "2")
    assert level_for(gpt2) == 2
    assert level_for(gpt2, 1) == 1
    assert level_for(gpt2, 0) == 0


@pytest.mark.parametrize("name", ["gradient_checkpointing", "activation_checkpointing"])
def test_checkpointing_in_the_arguments_is_accepted_by_both_names(name: str) -> None:
    assert asked(**{name: True}) == []
    assert asked(**{name: False}, recompute=0) == []
    (problem,) = asked(**{name: True}, recompute=0)
    assert "recompute=0" in problem.what


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"use_reentrant": False}, None),
        ({"every_n_layers": 1, "offload": False}, None),
        ({"every_n_layers": 2}, "every_n_layers=2"),
        ({"offload": True}, "offload=True"),
        ({"debug": True}, "debug=True"),
    ],
    ids=str,
)
def test_choices_that_onnx_runtime_has_not_are_refused(
    kwargs: dict[str, Any], named: str | None
) -> None:
    found = asked(activation_checkpointing=True, activation_checkpointing_kwargs=kwargs)
    assert [p.what for p in found] == ([f"ONNX Runtime's recompute knows no {named}"] * bool(named))


def test_checkpointing_of_the_model_is_accepted_whole_and_plain(gpt2: Any) -> None:
    assert ort_recompute.model_problems(gpt2, None) == []
    gpt2.activation_checkpointing_enable()
    assert ort_recompute.model_problems(gpt2, None) == []
    assert "recompute=0" in ort_recompute.model_problems(gpt2, 0)[0].what
    gpt2.activation_checkpointing_enable(every_n_layers=2)
    assert "some of the layers" in ort_recompute.model_problems(gpt2, None)[0].what
    gpt2.activation_checkpointing_enable(offload=True)
    assert "offload" in ort_recompute.model_problems(gpt2, 1)[0].what
    whole = nn.ModuleDict({"head": nn.Linear(1, 1), "body": gpt2})
    assert ort_recompute.model_problems(whole, 1)


@pytest.mark.parametrize("recompute", [3, -1, "1", 1.5], ids=repr)
def test_unusable_levels_are_refused(recompute: Any) -> None:
    (problem,) = ort_recompute.option_problems(recompute)
    assert problem.what == f"recompute is {recompute!r}"
    assert OrtStrategy(recompute=2).options()["recompute"] == 2


@pytest.mark.parametrize(
    ("name", "value"),
    [("ORTMODULE_MEMORY_OPT_LEVEL", "high"), ("ORTMODULE_MEMORY_OPT_CONFIG", "plan.json")],
)
def test_unusable_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    (problem,) = ort_recompute.option_problems(None)
    assert problem.where == f"{name}={value}"


def test_torchs_checkpoint_still_has_the_names_that_are_replaced() -> None:
    import torch.utils.checkpoint as checkpoint

    assert callable(checkpoint._checkpoint_without_reentrant_generator)
    assert issubclass(checkpoint.CheckpointFunction, torch.autograd.Function)
