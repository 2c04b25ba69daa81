"""The step that is compared with PyTorch's where versions were never tested."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from acpt_trainer import ConfigurationError
from acpt_trainer.ort import patches, registration, selfcheck


@pytest.fixture(autouse=True)
def _nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(selfcheck, "_checked", False)
    yield
    assert patches.active() == ()


@pytest.fixture
def newer_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "2.99.0" if name == "torch" else version(name)
    )


def test_tested_versions_need_no_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selfcheck, "check", lambda: pytest.fail("checked"))
    assert selfcheck.untested() == []
    selfcheck.require()


def test_the_step_is_as_pytorchs_and_random_state_stays() -> None:
    before = torch.get_rng_state()
    assert selfcheck.check() == []
    assert torch.get_rng_state().equal(before)


def test_untested_versions_are_named_and_checked_once(
    newer_torch: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[int] = []
    monkeypatch.setattr(selfcheck, "check", lambda: checks.append(1) or [])
    with caplog.at_level(logging.WARNING):
        selfcheck.require()
        selfcheck.require()
    assert checks == [1]
    assert "torch 2.99.0 (tested: >=2.13, <2.14)" in caplog.text


def test_what_differs_is_named_and_stops(
    newer_torch: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = registration._symbolics

    def doubled(upstream: dict[str, Any]) -> dict[str, Any]:
        chosen = ours(upstream)
        where = chosen["aten::where"]
        chosen["aten::where"] = lambda g, *a: g.op("Add", where(g, *a), where(g, *a))
        return chosen

    monkeypatch.setattr(registration, "_symbolics", doubled)
    with pytest.raises(ConfigurationError, match=r"the value of where(?s:.*)torch 2.99.0") as found:
        selfcheck.require()
    assert "the value of embedding" not in str(found.value)
    assert "the tested versions" in str(found.value)
    with pytest.raises(ConfigurationError):
        selfcheck.require()  # a failure is not remembered as a pass


def test_a_step_that_stops_is_a_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "_symbolics", lambda upstream: {})
    (different,) = selfcheck.check()
    assert different.startswith("the step stopped: ")
