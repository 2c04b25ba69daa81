"""From a trainer that is about to train to the strategy that it trains with."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from acpt_trainer.auto.candidates import Candidate, candidates, precisions
from acpt_trainer.auto.copies import Kit, stripped
from acpt_trainer.auto.data import Data, read
from acpt_trainer.auto.hosts import Answer, Apart, Here, Host
from acpt_trainer.auto.store import Store
from acpt_trainer.auto.verdict import HOLDS, SLOWER, Choice, Row, fastest, reason
from acpt_trainer.errors import ConfigurationError, Problem, raise_if_any
from acpt_trainer.report import read_report
from acpt_trainer.signals import orderly_sigterm
from acpt_trainer.strategies.auto import AutoStrategy

logger = logging.getLogger(__name__)

_REFERENCE_SECONDS = 120.0
"""What the reference may take at least: without it there is nothing to compare with."""

_CLOSE = 1.15
"""Runs that take this much longer than the fastest may be as fast."""

_CUT = ("over budget", "timed out", "not tried")
"""Rows that a larger budget would change."""

_WORST_FIRST = ("crashed", "failed", "timed out", "over budget", "refused")


def choose(trainer: Any, checkpoint: str | None) -> Choice:
    """Finds the strategy to train with; all ranks together.

    Args:
        trainer: The trainer, with an `AutoStrategy`; nothing of it is changed.
        checkpoint: What the run goes on from, or None.

    Raises:
        ConfigurationError: If the data cannot be read twice, or the reference does not train.
    """
    auto: AutoStrategy = trainer.strategy
    if checkpoint is not None:
        return _told(_as_before(auto, checkpoint), trainer)
    device = trainer.args.device.type
    allowed = precisions(auto, trainer._asked_precision, trainer._binding.precision, device)
    tried, rows = candidates(auto, allowed, device)
    if len(tried) == 1:
        only = tried[0]
        why, name = "nothing else is available", only.spec.name
        rows = [Row(name, only.precision, HOLDS), *rows]
        alone = Choice(auto.label, name, only.precision, why, "not tried", rows=tuple(rows))
        return _told(alone, trainer)
    return _told(_Trial(trainer, auto, tried, rows).choice(), trainer)


def _told(choice: Choice, trainer: Any) -> Choice:
    """Says it where it is seen: time has passed, and something was chosen for the user."""
    if trainer.args.process_index == 0:
        logger.warning("%s", choice)
    return choice


def _as_before(auto: AutoStrategy, checkpoint: str) -> Choice:
    """The strategy that wrote the checkpoint: a resumed run is the run that it resumes."""
    written = read_report(checkpoint)
    if written is None:
        raise ConfigurationError(
            [
                Problem(
                    "the checkpoint does not say which strategy wrote it",
                    f"{checkpoint}: no strategy.json",
                    "name the strategy instead of 'auto'",
                )
            ],
            "Cannot resume",
        )
    return Choice(
        auto.label, written["strategy"], written["precision"], "it wrote the checkpoint",
        f"from {checkpoint}",
    )  # fmt: skip


class _Trial:
    """Tries candidates, the same on every rank."""

    def __init__(
        self, trainer: Any, auto: AutoStrategy, tried: list[Candidate], rows: list[Row]
    ) -> None:
        from acpt_trainer.auto.tries import WARMUP_STEPS

        self.trainer, self.auto, self.tried, self.missing = trainer, auto, tried, rows
        self.began = time.monotonic()
        self.ranks = trainer.args.world_size
        count = (1 + WARMUP_STEPS + auto.steps) * trainer.args.gradient_accumulation_steps
        self.data = self._same_data(read(trainer, count))

    def _same_data(self, found: Data | Problem) -> Data:
        for each in self.gathered(found if isinstance(found, Problem) else None):
            raise_if_any([each] if each else [], "Cannot choose a strategy")
        assert isinstance(found, Data)
        return found

    def gathered(self, value: Any) -> list[Any]:
        """What every rank has."""
        import torch.distributed as dist

        if self.ranks == 1:
            return [value]
        values: list[Any] = [None] * self.ranks
        dist.all_gather_object(values, value)
        return values

    def choice(self) -> Choice:
        """The verdict, from an earlier run where there is one."""
        store = self._store()
        kept = self.gathered(store.read() if store is not None else None)[0]
        if kept is not None:
            rows, measured = kept
            source = (
                f"measured {measured}, kept in {store.path if store else 'the cache of rank 0'}; "
                f"delete that, or build {self.auto.label!r} with cache=False, to try anew"
            )
            return self._choice(rows, source)
        self._say(f"tries {', '.join(c.label for c in self.tried)} within {self._allowance()}")
        rows, where = self._rows()
        rows += self.missing
        cut = any(row.status in _CUT for row in rows)
        if store is not None and not (cut and isinstance(self.auto.budget, str)):
            store.write(rows)
        return self._choice(rows, f"tried {where}")

    def _say(self, what: str) -> None:
        if self.trainer.args.process_index == 0:
            logger.warning("%s %s", self.auto.label, what)

    def _allowance(self) -> str:
        budget = self.auto.budget
        return f"{budget} of the run" if isinstance(budget, str) else f"{budget:g} s"

    def _store(self) -> Store | None:
        if self.auto.cache is False or self.trainer.args.process_index != 0:
            return None
        return Store(self.auto, self.trainer, self.data.batches, self.tried)

    def _choice(self, rows: Sequence[Row], source: str) -> Choice:
        steps, took = self.data.steps, self._spent()
        winner = fastest(rows, steps)
        why = "" if winner is None else reason(winner, rows, steps)
        if winner is None:
            winner, why = (
                rows[0],
                f"the time was over before it could be compared ({rows[0].reason})",
            )
        return Choice(self.auto.label, winner.strategy, winner.precision, why, source, steps, took,
                      tuple(rows))  # fmt: skip

    def _spent(self) -> float:
        return float(self.gathered(time.monotonic() - self.began)[0])

    # --- trying ----------------------------------------------------------------------------------

    def _rows(self) -> tuple[list[Row], str]:
        folders = tempfile.TemporaryDirectory(prefix="acpt-auto-")
        with orderly_sigterm(), folders as folder:
            bare = stripped(self.trainer, Path(folder))
            kit = Kit(bare, self.data.batches, self.tried, self.auto.steps, folder)
            host, why_here = self._host(kit, Path(folder))
            try:
                rows = [self._reference(host)]
                for number in range(1, len(self.tried)):
                    rows.append(self._row(host, number, rows, why_here))
                self._time_again(host, rows)
            finally:
                host.close()
        return rows, "in this process" if why_here else "in a process of its own"

    def _host(self, kit: Kit, folder: Path) -> tuple[Host, str | None]:
        """A process of its own, or this one and why."""
        why = next(filter(None, self.gathered(Apart.pack(kit, folder))), None)
        if why is None:
            apart = Apart(folder, self.gathered)
            started = self._together(apart.start())
            if started["status"] == "ok":
                return apart, None
            apart.close()
            why = started["reason"]
        self._say(f"tries in this process: {why}")
        return Here(kit), why

    def _together(self, answer: Answer) -> Answer:
        """One answer of all ranks: the worst, or the slowest."""
        answers = self.gathered(answer)
        for status in (*_WORST_FIRST, "differs"):
            bad = next((a for a in answers if a["status"] == status), None)
            if bad is not None:
                return dict(bad)
        merged = dict(answers[0])
        for name in ("first_seconds", "step_seconds", "difference"):
            values = [a[name] for a in answers if a.get(name) is not None]
            if values:
                merged[name] = max(values)
        return merged

    def _ask(self, host: Host, do: str, number: int, seconds: float) -> Answer:
        answer = self._together(host.ask(do, number, seconds))
        if answer["status"] not in ("ok", "refused", "differs"):
            host.renew()
        return answer

    def _reference(self, host: Host) -> Row:
        candidate = self.tried[0]
        seconds = max(_REFERENCE_SECONDS, self.auto.seconds(0.0))
        timed = self._ask(host, "compare", 0, seconds)  # first: it also imports what all need
        if timed["status"] == "ok":
            timed = self._ask(host, "time", 0, seconds)
        if timed["status"] in ("crashed", "failed", "refused"):
            raise ConfigurationError(
                [
                    Problem(
                        f"{candidate.label}, which the others are held to, {timed['status']} in "
                        f"its trial: {timed.get('reason')}",
                        f"strategy={self.auto.label!r}",
                        timed.get("fix") or "name a strategy instead of 'auto'",
                    )
                ],
                "Cannot choose a strategy",
            )
        self.budget = self.auto.seconds(self.data.steps * timed.get("step_seconds", 0.0))
        return _row(candidate, timed, HOLDS)

    def _row(self, host: Host, number: int, rows: Sequence[Row], why_here: str | None) -> Row:
        candidate = self.tried[number]
        left = self.budget - self._spent()
        if left <= 0:
            return _row(candidate, {"reason": f"the budget of {self.budget:.3g} s is spent"},
                        "not tried")  # fmt: skip
        if why_here and candidate.owns_the_process():
            return _row(candidate, {"reason": f"it needs a process of its own, and {why_here}"},
                        "not tried")  # fmt: skip
        # No more than half of what is left, so that one does not starve the others.
        share = left if number == len(self.tried) - 1 else left / 2
        timed = self._ask(host, "time", number, share)
        if timed["status"] != "ok":
            return _row(candidate, timed, timed["status"])
        row = _row(candidate, timed, HOLDS)
        beating = next((r for r in rows if r.status == HOLDS and row.is_beaten_by(r)), None)
        if beating is not None:
            return _row(candidate, {**timed, "reason": f"than {beating.strategy}"}, SLOWER)
        left = self.budget - self._spent()
        if left <= 0:
            answer = {**timed, "reason": "no time is left to compare its gradients"}
            return _row(candidate, answer, "over budget")
        compared = self._ask(host, "compare", number, left)
        status = HOLDS if compared["status"] == "ok" else compared["status"]
        return _row(candidate, {**timed, **compared}, status)

    def _time_again(self, host: Host, rows: list[Row]) -> None:
        """Times those that are close together once more, each in its turn, and keeps the better.

        They were timed one after another, and the machine may have been busy with something else.
        """
        steps = self.data.steps
        best = fastest(rows, steps)
        limit = _CLOSE * best.run_seconds(steps) if best is not None else 0.0
        close = [
            i for i, r in enumerate(rows) if r.status == HOLDS and r.run_seconds(steps) <= limit
        ]
        takes = sum(2 * rows[i].run_seconds(self.auto.steps + 3) for i in close)
        if len(close) < 2 or takes > self.budget - self._spent():
            return
        for i in close:
            timed = self._ask(host, "time", i, self.budget - self._spent())
            for name in ("first_seconds", "step_seconds") if timed["status"] == "ok" else ():
                better = min(getattr(rows[i], name), timed[name])
                rows[i] = replace(rows[i], **{name: better})


def _row(candidate: Candidate, answer: Answer, status: str) -> Row:
    return Row(
        candidate.spec.name, candidate.precision, status, answer.get("reason", ""),
        answer.get("fix", ""), answer.get("first_seconds"), answer.get("step_seconds"),
        answer.get("difference"),
    )  # fmt: skip
