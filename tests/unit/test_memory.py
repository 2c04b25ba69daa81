"""How much memory this process used at most."""

from __future__ import annotations

import resource
import sys
from types import SimpleNamespace

import pytest
import torch

from acpt_trainer.measure.memory import peak_memory_mb


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_peak_memory_is_in_megabytes(
    monkeypatch: pytest.MonkeyPatch, platform: str, unit: int
) -> None:
    usage = SimpleNamespace(ru_maxrss=5_000_000)
    monkeypatch.setattr(resource, "getrusage", lambda who: usage)
    monkeypatch.setattr(sys, "platform", platform)
    assert peak_memory_mb() == 5 * unit


def test_peak_memory_of_this_process_is_plausible() -> None:
    assert 10 < peak_memory_mb() < 1e6  # torch alone takes more than ten


def test_peak_memory_of_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 7_000_000)
    assert peak_memory_mb("cuda") == 7.0
