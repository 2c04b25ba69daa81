"""What was found of each candidate, which one it speaks for, and the table that says so."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from acpt_trainer.report import StrategyReport

HOLDS, SLOWER = "holds", "slower"


@dataclass(frozen=True)
class Row:
    """One candidate.

    Attributes:
        strategy: Its name.
        precision: What it trained in.
        status: `holds` (its numbers are those of `no_acc`), `slower` (so they were not
            compared), `differs`, `refused`, `failed`, `crashed`, `timed out`, `over budget`,
            `not tried`, `not here`.
        reason: Why, unless it holds.
        fix: What to do about it.
        first_seconds: From the plain model to the end of the first step.
        step_seconds: Median of the steps after those that warm up.
        difference: Largest relative difference of a parameter's gradient from `no_acc`'s.
    """

    strategy: str
    precision: str
    status: str
    reason: str = ""
    fix: str = ""
    first_seconds: float | None = None
    step_seconds: float | None = None
    difference: float | None = None

    def run_seconds(self, steps: int) -> float:
        """How long a run of so many steps takes."""
        if self.first_seconds is None or self.step_seconds is None:
            return math.inf
        return self.first_seconds + (steps - 1) * self.step_seconds

    def is_beaten_by(self, other: Row) -> bool:
        """Whether the other is faster in runs of every length."""
        return (
            other.run_seconds(1) <= self.run_seconds(1)
            and (other.step_seconds or 0.0) <= (self.step_seconds or math.inf)
        )  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """The verdict.

    Attributes:
        asked: Name that was asked for.
        strategy: Name of the winner.
        precision: What it trains in.
        why: Why it is the winner.
        source: Where the rows come from.
        steps: Optimizer steps of the run.
        seconds: What trying took.
        rows: What was found of each candidate.
    """

    asked: str
    strategy: str
    precision: str
    why: str
    source: str
    steps: int = 0
    seconds: float = 0.0
    rows: tuple[Row, ...] = field(default=())

    def noted(self, report: StrategyReport) -> StrategyReport:
        """A report of the winner that says how it was chosen."""
        return replace(report, asked=self.asked, choice=self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "rows": [asdict(row) for row in self.rows], "table": self.table()}

    def table(self) -> list[str]:
        """The rows as aligned lines, the winner marked."""
        head = ("", "strategy", "precision", "first step", "a step", "this run", "apart", "verdict")
        lines = [head, *(self._cells(row) for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
        return [
            "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ]

    def _cells(self, row: Row) -> tuple[str, ...]:
        won = (row.strategy, row.precision) == (self.strategy, self.precision)
        total = row.run_seconds(self.steps)
        return (
            "*" if won else "",
            row.strategy,
            row.precision,
            _seconds(row.first_seconds),
            _seconds(row.step_seconds),
            _seconds(total if math.isfinite(total) else None),
            "" if row.difference is None else f"{row.difference:.1e}",
            ": ".join(filter(None, (row.status, row.reason))),
        )

    def __str__(self) -> str:
        head = f"{self.asked} takes {self.strategy} in {self.precision}: {self.why} ({self.source})"
        return "\n".join([head, *(f"  {line}" for line in self.table())] if self.rows else [head])


def fastest(rows: Sequence[Row], steps: int) -> Row | None:
    """The fastest of those that hold, for a run of so many steps; the first of equal ones."""
    holding = [row for row in rows if row.status == HOLDS]
    return min(holding, key=lambda row: row.run_seconds(steps), default=None)


def reason(winner: Row, rows: Sequence[Row], steps: int) -> str:
    """Why it is the winner, in one line."""
    others = [row for row in rows if row.step_seconds is not None and row is not winner]
    if not others:
        return "nothing else could be tried"
    base = rows[0]
    if winner is base:
        quicker = [r for r in others if r.status == HOLDS and _step(r) < _step(base)]
        if not quicker:
            return f"nothing that computes the same is faster than {_seconds(_step(base))} a step"
        best = min(quicker, key=_step)
        return (
            f"{best.strategy} in {best.precision} is {_step(base) / _step(best):.2f} times as fast "
            f"a step, but its first step of {_seconds(best.first_seconds)} is not paid back in "
            f"{steps} steps"
        )
    text = (
        f"{_seconds(_step(winner))} a step, {_step(base) / _step(winner):.2f} times as fast as "
        f"{base.strategy} in {base.precision}"
    )
    longer = (winner.first_seconds or 0.0) - (base.first_seconds or 0.0)
    gain = _step(base) - _step(winner)
    if longer > 0 and gain > 0:
        paid = math.ceil(longer / gain)
        text += f"; its longer start is paid back after {paid} of {steps} steps"
    return text


def _step(row: Row) -> float:
    return math.inf if row.step_seconds is None else row.step_seconds


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f} s" if value >= 10 else f"{value:.3g} s"
