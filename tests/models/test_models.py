"""Model types against PyTorch: a small set here, all of them in `make test-long`."""

from __future__ import annotations

import os
import signal
from multiprocessing.connection import Connection

import pytest
import transformers

from .checks import CHECKS, Row, run
from .isolated import Job, run_jobs
from .table import PACKAGES, PAGE, ROOT
from .zoo import ATTENTIONS, GROUPS, entries

# One of each kind; the integration tests have GPT-2 and BERT.
SMALL = (
    ("llama", "sdpa", ("exact", "dropout")),
    ("t5", "eager", ("exact",)),
    ("bloom", "eager", ("exact",)),
    ("convnext", "eager", ("dropout",)),
    ("wav2vec2 (CTC)", "eager", ("exact", "dropout")),
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


def test_page_has_the_rows_and_the_versions() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = {
        tuple(cell.strip() for cell in line.split("|")[1:4])
        for line in text.splitlines()
        if line.startswith("|") and line.count("|") > 6
    }
    expected = {(e.name, f"`{e.model}`", a) for e in entries().values() for a in e.attentions}
    remake = "make coverage-table writes it anew"
    assert {row for row in rows if row[2] in ATTENTIONS} == expected, remake
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    for package in PACKAGES:
        version = next(line for line in constraints if line.startswith(f"{package}=="))
        assert f"| {package} | {version.partition('==')[2]} |" in text, remake


def crash_at_the_second(writer: Connection, job: Job, log: str) -> None:
    writer.send(Row(job.entry, job.attention, job.checks[0], "holds"))
    if len(job.checks) > 1:
        os.kill(os.getpid(), signal.SIGSEGV)


def test_crash_of_a_check_is_its_row() -> None:
    rows: list[Row] = []
    run_jobs([Job("gpt2", "eager", ("a", "b", "c"))], rows.append, target=crash_at_the_second)

    assert [(row.check, row.status) for row in rows] == [
        ("a", "holds"), ("b", "crashed"), ("c", "holds"),
    ]  # fmt: skip
    assert rows[1].reason == "SIGSEGV"


def test_entries_are_well_formed() -> None:
    for entry in entries().values():
        assert entry.group in GROUPS
        supported = ATTENTIONS if getattr(transformers, entry.model)._supports_sdpa else ("eager",)
        assert entry.attentions == supported, entry.name
        assert set(entry.refused) <= set(CHECKS)
