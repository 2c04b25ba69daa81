"""Fixtures of the integration tests."""

from __future__ import annotations

import pytest
import torch
from strategy_runs import Runs


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    """Weights and samples that a test draws are the same in any order of tests."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))
