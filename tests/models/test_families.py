"""Further families of transformers against PyTorch: a few here, all in `make test-long`."""

from __future__ import annotations

import pytest

from .checks import Row, run
from .families import families
from .isolated import Job, run_jobs

SMALL = ("olmo", "cohere", "modernbert", "hubert")


@pytest.mark.parametrize("name", SMALL)
def test_family_trains_as_in_pytorch(name: str) -> None:
    (row,) = run(families()[name], "default", ("exact",))
    assert row.status == "holds", row.reason


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", families())
def test_family_holds_or_does_not_as_said(name: str) -> None:
    rows: list[Row] = []
    run_jobs([Job(name, "default", ("exact",))], rows.append)
    (row,) = rows
    reason = families()[name].refused.get("exact")
    if reason is None:
        assert row.status == "holds", row.reason
    else:
        assert row.status in ("refused", "differs")
        assert reason in row.reason
