"""Model types against PyTorch: a small set here, all of them in `make test-long`."""

from __future__ import annotations

import pytest

from .checks import CHECKS, Row, run
from .isolated import Job, run_jobs
from .zoo import ATTENTIONS, GROUPS, entries

# One of each kind; the integration tests have GPT-2 and BERT.
SMALL = (
    ("llama", "sdpa", ("exact", "dropout")),
    ("t5", "eager", ("exact",)),
    ("bart", "sdpa", ("outside", "evaluate")),
    ("vit", "sdpa", ("exact",)),
    ("distilbert", "sdpa", ("unmasked",)),
)
ALL = [(entry.name, attention) for entry in entries().values() for attention in entry.attentions]


def assert_holds_or_is_refused_as_said(row: Row) -> None:
    reason = entries()[row.entry].refused.get(row.check)
    if reason is None:
        assert row.status in ("holds", "none"), f"{row.check}: {row.status}: {row.reason}"
    else:
        assert row.status == "refused", f"{row.check} {row.status}; the entry says it is refused"
        assert reason in row.reason


@pytest.mark.parametrize(("name", "attention", "checks"), SMALL, ids=lambda value: str(value))
def test_model_type_trains_as_in_pytorch(
    name: str, attention: str, checks: tuple[str, ...]
) -> None:
    for row in run(entries()[name], attention, checks):
        assert row.status == "holds", f"{row.check}: {row.status}: {row.reason}"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("name", "attention"), ALL)
def test_model_type_holds_every_check(name: str, attention: str) -> None:
    rows: list[Row] = []
    run_jobs([Job(name, attention, tuple(CHECKS))], rows.append)

    assert [row.check for row in rows] == list(CHECKS)
    for row in rows:
        assert_holds_or_is_refused_as_said(row)


def test_entries_are_well_formed() -> None:
    for entry in entries().values():
        assert entry.group in GROUPS
        assert set(entry.attentions) <= set(ATTENTIONS)
        assert set(entry.refused) <= set(CHECKS)
