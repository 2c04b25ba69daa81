"""The seam with Accelerate, on a made-up accelerator: what is extended, and versions."""

from __future__ import annotations

import importlib.metadata
import logging
import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from acpt_trainer import integration
from acpt_trainer.errors import ConfigurationError
from acpt_trainer.integration import (
    TESTED,
    check_versions,
)

from .made_up_accelerator import Accelerator, Parallel, bind
from .made_up_strategies import Wrapped

# --- what is extended ----------------------------------------------------------------------------


def test_binding_extends_the_instance_and_keeps_the_originals() -> None:
    accelerator, _, binding = bind(nn.Linear(1, 1))
    other = Accelerator()
    for name in ("prepare", "unwrap_model", "get_state_dict", "clip_grad_norm_"):
        assert name in accelerator.__dict__
        assert name not in other.__dict__  # nothing global is changed
        assert binding._originals[name].__self__ is accelerator
        assert binding._originals[name].__func__ is getattr(Accelerator, name)
    assert accelerator.prepare.__doc__ == "Prepares objects."
    assert accelerator.prepare.__name__ == "prepare"


@pytest.mark.parametrize("backend", ["INDUCTOR", "EAGER"])
def test_binding_refuses_a_compiler_that_an_earlier_accelerator_left(backend: str) -> None:
    accelerator: Any = Accelerator()
    accelerator.state = SimpleNamespace(
        dynamo_plugin=SimpleNamespace(backend=SimpleNamespace(value=backend))
    )
    with pytest.raises(ConfigurationError, match=f"an accelerator that compiles with {backend}"):
        bind(nn.Linear(1, 1), accelerator)
    accelerator.state.dynamo_plugin.backend.value = "NO"
    bind(nn.Linear(1, 1), accelerator)


def test_prepare_passes_the_wrapped_model_and_keeps_positions() -> None:
    model, optimizer, loader = nn.Linear(1, 1), object(), object()
    accelerator, strategy, _ = bind(model)
    result = accelerator.prepare(optimizer, model, loader, device_placement=[True] * 3)
    given = accelerator.given[0]
    assert isinstance(given[1], Wrapped)
    assert given[1].inner is model
    assert (given[0], given[2], given[3]) == (optimizer, loader, {"device_placement": [True] * 3})
    assert (result[0], result[2]) == (optimizer, loader)
    assert isinstance(result[1], Parallel)
    assert strategy.calls == ["wrap made_up", "prepared made_up"]


def test_prepare_of_one_model_returns_one_object() -> None:
    model = nn.Linear(1, 1)
    accelerator, strategy, _ = bind(model)
    prepared = accelerator.prepare(model)
    assert isinstance(prepared, Parallel)
    assert isinstance(prepared.module, Wrapped)
    assert "prepared made_up" in strategy.calls


def test_prepare_leaves_other_objects_alone() -> None:
    accelerator, strategy, _ = bind(nn.Linear(1, 1))
    other = nn.Linear(1, 1)
    assert accelerator.prepare(other).module is other
    assert strategy.calls == []


def test_prepare_forgets_that_the_model_was_evaluated() -> None:
    model = nn.Linear(1, 1)
    model._is_accelerate_prepared = True  # type: ignore[assignment]
    accelerator, _, _ = bind(model)
    accelerator.prepare(model)
    assert not hasattr(model, "_is_accelerate_prepared")


def test_unwrap_peels_nested_wrappers() -> None:
    model = nn.Linear(1, 1)
    accelerator, strategy, _ = bind(model)
    prepared = accelerator.prepare(model)
    assert accelerator.unwrap_model(prepared) is model
    again = Parallel(Wrapped(Parallel(Wrapped(model, strategy)), strategy))
    assert accelerator.unwrap_model(again, keep=True) is model
    assert accelerator.unwrap_model(model) is model


class Tied(nn.Module):
    """Two names of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 2)
        self.body = nn.Linear(2, 2)
        self.head = nn.Linear(2, 3, bias=False)
        self.head.weight = self.embedding.weight


def test_get_state_dict_ties_what_the_model_ties() -> None:
    model = Tied()
    accelerator, _, binding = bind(model)
    plain = binding._originals["get_state_dict"](model)
    assert plain["head.weight"] is not plain["embedding.weight"]
    state = accelerator.get_state_dict(accelerator.prepare(model))
    assert state["head.weight"] is state["embedding.weight"]
    assert set(state) == set(model.state_dict())
    assert torch.equal(state["body.weight"], model.body.weight)
    assert state["body.weight"] is not state["body.bias"]


@pytest.mark.parametrize(
    ("engine", "script", "shown"), [(0.0, 1.0, "nothing"), (1.0, 0.5, "1.0"), (0.5, 1, "0.5")]
)
def test_clip_refuses_another_norm_than_the_engine_s(
    engine: float, script: float, shown: str
) -> None:
    accelerator, strategy, _ = bind(nn.Linear(1, 1))
    strategy.clips_to = lambda: engine  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError) as caught:
        accelerator.clip_grad_norm_([], script)
    (problem,) = caught.value.problems
    assert f"the script clips gradients to {script}," in problem.what
    assert f"the engine clips to {shown} inside its own step" in problem.what
    assert f"'gradient_clipping': {script}" in problem.fix
    assert accelerator.clipped == []


@pytest.mark.parametrize(
    ("engine", "script"),
    [
        (1.0, 1.0),
        (1.0, 1),
        (0.0, 0.0),
        (0.0, math.inf),  # the norm is only measured
        (1.0, math.inf),
        (None, 0.3),
    ],
)
def test_clip_passes_the_engine_s_norm_and_measuring_through(
    engine: float | None, script: float
) -> None:
    accelerator, strategy, _ = bind(nn.Linear(1, 1))
    strategy.clips_to = lambda: engine  # type: ignore[method-assign]
    assert accelerator.clip_grad_norm_(["p"], script) == script
    assert accelerator.clip_grad_norm_(["p"], script, 1) == script
    assert accelerator.clipped == [(["p"], script, 2), (["p"], script, 1)]


def test_clip_takes_its_arguments_by_name() -> None:
    accelerator, _, _ = bind(nn.Linear(1, 1))
    accelerator.clip_grad_norm_(parameters=["p"], max_norm=1.0)
    accelerator.clip_grad_norm_(["p"], max_norm=1.0, norm_type=1)
    assert accelerator.clipped == [(["p"], 1.0, 2), (["p"], 1.0, 1)]


# --- versions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transformers", "accelerate_", "warned"),
    [
        ("5.23.0", "1.15.0", []),
        ("5.23.7", "1.15.9", []),
        ("5.22.9", "1.15.0", ["transformers 5.22.9"]),
        ("5.24.0", "1.16.0", ["transformers 5.24.0", "accelerate 1.16.0"]),
        ("5.23.1", "0.34", ["accelerate 0.34"]),
    ],
)
def test_check_versions_warns_by_name(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    transformers: str,
    accelerate_: str,
    warned: list[str],
) -> None:
    assert TESTED == {"transformers": ("5.23", "5.24"), "accelerate": ("1.15", "1.16")}
    here = {"transformers": transformers, "accelerate": accelerate_}
    monkeypatch.setattr(importlib.metadata, "version", here.__getitem__)
    monkeypatch.setattr(integration, "_said", set())
    with caplog.at_level(logging.WARNING, integration.__name__):
        check_versions()
        check_versions()  # says nothing again
    assert len(caplog.messages) == len(warned)
    for message, name in zip(caplog.messages, warned, strict=True):
        assert message.startswith(f"{name} is outside the versions")
