"""What holds for every test: nothing is kept in, or taken from, the user's cache."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("ACPT_TRAINER_CACHE")
    os.environ["ACPT_TRAINER_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["ACPT_TRAINER_CACHE"]
    else:
        os.environ["ACPT_TRAINER_CACHE"] = before
