"""Fixtures of the unit tests: each test leaves the process as it found it."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import acpt_trainer
from acpt_trainer import registry
from acpt_trainer.requirements import Requirement

_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_OURS = ("ACCELERATE_", "FSDP_", "ORTMODULE_", "DS_ACCELERATOR")


@pytest.fixture(autouse=True)
def plain_environment() -> Iterator[None]:
    """No launcher, no Accelerate or ONNX Runtime settings; and whatever a test sets is undone."""
    with mock.patch.dict(os.environ):
        for name in list(os.environ):
            if name in _LAUNCHER or name.startswith(_OURS):
                del os.environ[name]
        yield


@pytest.fixture(autouse=True)
def entry_points(monkeypatch: pytest.MonkeyPatch) -> list[importlib.metadata.EntryPoint]:
    """The entry points that the registry will find: none, until a test adds some.

    The registry itself is a copy, which is thrown away after the test.
    """
    found: list[importlib.metadata.EntryPoint] = []
    original = importlib.metadata.entry_points

    def entry_points(**params: Any) -> Any:
        return found if params.get("group") == registry.ENTRY_POINTS else original(**params)

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))
    monkeypatch.setattr(registry, "_entry_points_loaded", False)
    return found


@pytest.fixture
def missing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes packages look as if they were not installed; every other one looks installed."""

    def make_missing(*modules: str) -> None:
        monkeypatch.setattr(
            Requirement, "installed", lambda self: self.module.split(".")[0] not in modules
        )

    return make_missing


@pytest.fixture
def make_args(tmp_path: Path) -> Callable[..., Any]:
    """Builds CPU `TrainingArguments`."""
    from transformers import TrainingArguments

    def build(**options: Any) -> TrainingArguments:
        return TrainingArguments(
            **{"output_dir": str(tmp_path / "run"), "use_cpu": True, "report_to": [], **options}
        )

    return build


@pytest.fixture
def group() -> None:
    """A process group of one, which is left after the test as any is."""
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


@pytest.fixture
def run_python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs Python in a new process that finds this package; returns what it printed."""

    def run(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        source = str(Path(acpt_trainer.__file__).resolve().parents[1])
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        return subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run
