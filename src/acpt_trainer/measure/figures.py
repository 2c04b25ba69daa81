"""From the answers of a benchmark's workers to its rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from acpt_trainer.measure.entry import PARTS, Entry
from acpt_trainer.measure.store import Store


@dataclass
class Row:
    """One entry's figures; None where there is none.

    Attributes:
        strategy: As the user spelled it.
        precision: What it trained in.
        nproc: Processes.
        status: `ok`, or `refused`, `failed`, `crashed`, `timed out`.
        step_seconds: Median of all measured steps.
        samples_per_second: Over all processes; median over the rounds.
        tokens_per_second: The same.
        speedup: Samples a second over the first entry's in the same round; median over the rounds.
        mfu: Share of the machine's measured rate of matrix multiplication in the same precision.
        peak_memory_mb: Of the process that used most.
        first_step_seconds: The first step, with what is exported or compiled for it.
        break_even_steps: Steps after which the longer start has paid for itself, against the first
            entry; None where it never does.
        final_loss: Mean over the last turn.
    """

    strategy: str
    precision: str
    nproc: int
    status: str
    step_seconds: float | None = None
    samples_per_second: float | None = None
    tokens_per_second: float | None = None
    speedup: float | None = None
    mfu: float | None = None
    peak_memory_mb: float | None = None
    first_step_seconds: float | None = None
    break_even_steps: int | None = None
    final_loss: float | None = None


@dataclass
class Details:
    """What stands behind a row.

    Attributes:
        reason: Why there are no figures.
        fix: What to do about it.
        attention: Attention implementation that was asked for.
        step_quartiles: First and third quartile of the measured steps.
        speedup_range: Lowest and highest round.
        split_seconds: Median seconds by part of a step.
        prepare_seconds: From the plain model to one that is ready for the first step.
        matmul_rate: Operations a second of a matrix multiplication in the same precision.
        losses: By step, from the first one on.
        optimizer_state_bytes: Of the process that holds most.
        report: The strategy's report.
    """

    reason: str | None = None
    fix: str | None = None
    attention: str | None = None
    step_quartiles: tuple[float, float] | None = None
    speedup_range: tuple[float, float] | None = None
    split_seconds: dict[str, float] = field(default_factory=dict)
    prepare_seconds: float | None = None
    matmul_rate: float | None = None
    losses: list[float] = field(default_factory=list)
    optimizer_state_bytes: int | None = None
    report: dict[str, Any] = field(default_factory=dict)


@dataclass
class Figures:
    """A benchmark's results.

    Attributes:
        machine: What it was measured on.
        request: What was measured.
        model: The model's class and size.
        rows: One for each entry, in the order asked for.
        details: The same.
    """

    machine: dict[str, Any]
    request: dict[str, Any]
    model: dict[str, Any]
    rows: list[Row]
    details: list[Details]

    def to_dict(self) -> dict[str, Any]:
        """The results as plain data."""
        return {
            "machine": self.machine,
            "rows": [asdict(row) for row in self.rows],
            "request": self.request,
            "model": self.model,
            "details": [asdict(detail) for detail in self.details],
        }


class _Turns:
    """What an entry answered in the rounds that it made."""

    def __init__(self, store: Store, entry: Entry) -> None:
        self.start = store.get("start", entry)
        every = ((r, store.get(f"turn-{r}", entry)) for r in range(store.request.rounds))
        self.rounds = {number: answers for number, answers in every if answers is not None}

    @property
    def steps(self) -> list[float]:
        return [sum(parts) for a in self.rounds.values() for parts in a[0]["seconds"]]

    def a_second(self, number: int, what: str) -> float:
        answers = self.rounds[number]
        total = sum(answer[what] for answer in answers)
        return float(total) / sum(map(sum, answers[0]["seconds"]))

    def median_a_second(self, what: str) -> float:
        return statistics.median(self.a_second(r, what) for r in self.rounds)

    def start_seconds(self) -> float:
        return float(self.start[0]["prepare_seconds"] + self.start[0]["first_step_seconds"])

    def losses(self) -> list[float]:
        """From the first step on, each the mean over the processes."""
        last = self.rounds[max(self.rounds)]
        return [statistics.fmean(r) for r in zip(*(a["losses"] for a in last), strict=True)]


def figures(store: Store) -> Figures:
    """Everything that a finished benchmark says."""
    request, facts = store.request, store.get("facts")
    turns = {e.label: _Turns(store, e) for e in request.entries}
    made = [_row(store, entry, turns) for entry in request.entries]
    return Figures(
        facts["machine"],
        request.to_dict(),
        {k: facts[k] for k in ("model", "parameters", "flops_per_sample")},
        [row for row, _ in made],
        [detail for _, detail in made],
    )


def _row(store: Store, entry: Entry, turns: dict[str, _Turns]) -> tuple[Row, Details]:
    fault, mine = store.get("fault", entry), turns[entry.label]
    precision = mine.start[0]["report"]["precision"] if mine.start else entry.precision
    row = Row(entry.label, precision, store.request.nproc, "ok")
    detail = Details(attention=entry.attention)
    if fault is not None or not mine.rounds:
        fault = fault or {"status": "not measured", "reason": "no round is finished", "fix": ""}
        row.status = fault["status"]
        detail.reason, detail.fix = fault["reason"], fault["fix"]
        return row, detail
    last = mine.rounds[max(mine.rounds)]
    row.step_seconds = statistics.median(mine.steps)
    row.samples_per_second = mine.median_a_second("samples")
    row.tokens_per_second = mine.median_a_second("tokens") or None
    row.peak_memory_mb = max(answer["peak_memory_mb"] for answer in last)
    row.first_step_seconds = mine.start[0]["first_step_seconds"]
    detail.losses = mine.losses()
    row.final_loss = statistics.fmean(detail.losses[-store.request.steps_per_turn :])
    detail.prepare_seconds = mine.start[0]["prepare_seconds"]
    detail.step_quartiles = _quartiles(mine.steps)
    detail.split_seconds = _split(mine)
    states = [a["report"]["optimizer_state_bytes"] for a in last]
    detail.optimizer_state_bytes = max(states)
    detail.report = last[0]["report"]
    _compare(row, detail, mine, turns[store.request.entries[0].label])
    _utilize(store, row, detail)
    return row, detail


def _compare(row: Row, detail: Details, mine: _Turns, base: _Turns) -> None:
    """Speed-up by rounds that both made, and when the longer start has paid for itself."""
    both = [r for r in mine.rounds if r in base.rounds]
    if not both:
        return
    ratios = [mine.a_second(r, "samples") / base.a_second(r, "samples") for r in both]
    row.speedup = statistics.median(ratios)
    detail.speedup_range = (min(ratios), max(ratios))
    longer = mine.start_seconds() - base.start_seconds()
    gain = statistics.median(base.steps) * (1 - 1 / row.speedup)
    if mine is base or longer <= 0:
        row.break_even_steps = 0
    elif gain > 0:
        row.break_even_steps = math.ceil(longer / gain)


def _utilize(store: Store, row: Row, detail: Details) -> None:
    """Achieved over measured rate; only for rows of one length, whose operations are counted."""
    rates = [store.get(f"rates-{r}") or {} for r in range(store.request.rounds)]
    measured = [rate[row.precision] for rate in rates if row.precision in rate]
    if not measured:
        return
    detail.matmul_rate = statistics.median(measured)
    if store.request.lengths == 1 and row.samples_per_second is not None:
        achieved = store.get("facts")["flops_per_sample"] * row.samples_per_second
        row.mfu = achieved / detail.matmul_rate


def _split(turns: _Turns) -> dict[str, float]:
    steps = [parts for a in turns.rounds.values() for parts in a[0]["seconds"]]
    return {p: statistics.median(step[i] for step in steps) for i, p in enumerate(PARTS)}


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return (values[0], values[0])
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return (first, third)
