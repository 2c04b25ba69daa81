"""Single operators against PyTorch: a few here, all of them in `make test-long`."""

from __future__ import annotations

import pytest

from .checks import Row
from .isolated import Job, run_jobs
from .operators import operators, try_operator

SMALL = (
    "cross_entropy (all ignored)",
    "logsigmoid, large",
    "masked_fill (tensor)",
    "integer floor_divide of negatives",
    "sqrt at 0",
    "part of a product",
    "roll (beyond the size)",
)
"""Of those that differed in silence before they were mended."""


def outcome(name: str) -> Row:
    rows: list[Row] = []
    run_jobs([Job(name, "", ("operator",))], rows.append, target=try_operator)
    return rows[0]


def assert_as_said(row: Row) -> None:
    operator = operators()[row.entry]
    if operator.differs:
        assert row.status == "differs", f"{row.status}: no longer as it is said"
    elif operator.refused:
        assert row.status == "refused", f"{row.status}: {row.reason}"
        assert operator.refused in row.reason
    else:
        assert row.status == "holds", f"{row.status}: {row.reason}"


@pytest.mark.parametrize("name", SMALL)
def test_operator_is_as_in_pytorch(name: str) -> None:
    assert_as_said(outcome(name))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", operators())
def test_operator_holds_or_does_not_as_said(name: str) -> None:
    assert_as_said(outcome(name))
