"""Makes the modules of the example importable, as they are when its scripts run; fixtures."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "homer_gpt2"

if str(EXAMPLE) not in sys.path:
    sys.path.insert(0, str(EXAMPLE))

from finetune_runs import Runs, Workspace, make_workspace  # noqa: E402  (needs the path above)


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A short prepared text, a small tokenizer and the config of a tiny model."""
    return make_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="session")
def runs(workspace: Workspace) -> Runs:
    """Trained models, each made once when a test first asks for it."""
    return Runs(workspace)


@pytest.fixture
def call() -> Iterator[Callable[[list[str]], int]]:
    """Calls `main()` of the training script here, for mistakes found before training starts."""
    import finetune

    def run(options: list[str]) -> int:
        with pytest.raises(SystemExit) as stop:
            finetune.main(options)
        return int(stop.value.code or 0)

    with mock.patch.dict(os.environ):
        for name in list(os.environ):
            if name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
                del os.environ[name]
        yield run
