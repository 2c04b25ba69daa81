"""A benchmark: strategies take turns on the same model, rows and seed, each in its own process."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from typing import Any

from acpt_trainer.errors import ConfigurationError, Problem
from acpt_trainer.measure.crew import Worker, WorkerError, ended_together
from acpt_trainer.measure.entry import BenchRequest, Entry
from acpt_trainer.measure.store import Store

_RATE_SECONDS = 1.0

Say = Callable[[str], None]


def run(request: BenchRequest, store: Store, timeout: float, say: Say) -> None:
    """Measures what is not measured yet; every answer is kept in the store as soon as it is there.

    Drift of the machine cancels, because in each round every entry has a turn, and so has the
    measurement of what the machine can do.

    Args:
        request: What to measure.
        store: Where the answers are kept.
        timeout: Seconds to wait for one answer.
        say: Told what is being done.

    Raises:
        ConfigurationError: If the model cannot be trained on at all.
    """
    waiting = [entry for entry in request.entries if store.rounds_left(entry)]
    if not waiting and store.get("facts") is not None:
        say("everything is measured already")
        return
    load = os.getloadavg()[0]  # before this adds to it
    with ended_together() as started:
        job = {**request.job(request.entries[0]), "kind": "probes"}
        probe = Worker(store.turns / "0-probe", job, 1, timeout)
        started.append(probe)
        # All import at once; what is measured, even a first step, is made alone.
        workers = {}
        for entry in waiting:
            worker = Worker(store.place(entry), request.job(entry), request.nproc, timeout)
            started.append(worker)
            workers[entry.label] = worker
        for entry in waiting:
            if _asked(store, entry, workers[entry.label], say, "ready") is None:
                del workers[entry.label]
        _facts(store, probe, load, say)
        for entry in waiting:
            if entry.label in workers and not _entered(store, entry, workers[entry.label], say):
                del workers[entry.label]
        for number in range(request.rounds):
            turn = [e for e in waiting if e.label in workers and number in store.rounds_left(e)]
            if turn:
                _rates(store, probe, number, say)
            for entry in turn:
                _turn(store, entry, workers[entry.label], number, say)


def _facts(store: Store, probe: Worker, load: float, say: Say) -> None:
    """Asks for the machine and the model; a model that eager PyTorch cannot train ends it all."""
    if store.get("facts") is not None:
        return
    say("the machine, and the operations of a step in eager PyTorch")
    facts = _probed(store, probe, "facts")
    facts["machine"]["load_before"] = round(load, 2)
    store.put("facts", facts)


def _probed(store: Store, probe: Worker, do: str, **details: Any) -> dict[str, Any]:
    try:
        return probe.ask(do, **details)[0]
    except WorkerError as error:
        fix = error.fix or f"see {probe.folder / 'log.txt'}"
        where = f"--model {store.request.model}"
        raise ConfigurationError([Problem(error.reason, where, fix)], "Cannot measure") from error


def _entered(store: Store, entry: Entry, worker: Worker, say: Say) -> bool:
    """Builds and warms up; the costs of the first start are kept."""
    say(f"{entry.label}: builds, and makes the first {1 + store.request.warmup_steps} steps")
    rounds = store.request.rounds - len(store.rounds_left(entry))
    again = rounds * (1 + store.request.steps_per_turn)
    if again:
        say(f"{entry.label}: makes {again} steps again that a killed run had made")
    answers = _asked(store, entry, worker, say, "start", again=again)
    if answers is not None and store.get("start", entry) is None:
        store.put("start", answers, entry)
    return answers is not None


def _turn(store: Store, entry: Entry, worker: Worker, number: int, say: Say) -> None:
    answers = _asked(store, entry, worker, say, "turn", steps=store.request.steps_per_turn)
    if answers is None:
        return
    store.put(f"turn-{number}", answers, entry)
    step = statistics.median(sum(parts) for parts in answers[0]["seconds"])
    say(f"round {number + 1} of {store.request.rounds}, {entry.label}: {step:.4f} s a step")


def _asked(
    store: Store, entry: Entry, worker: Worker, say: Say, do: str, **details: Any
) -> list[dict[str, Any]] | None:
    """The answers, or None where the entry is out: that is kept, and the others go on."""
    try:
        return worker.ask(do, **details)
    except WorkerError as error:
        fault = {"status": error.status, "reason": error.reason, "fix": error.fix}
        store.put("fault", fault, entry)
        say(f"{entry.label}: {error.status}: {error.reason}")
        return None


def _rates(store: Store, probe: Worker, number: int, say: Say) -> None:
    """What the machine can do in this round, in each precision that is trained in."""
    found = store.get(f"rates-{number}") or {}
    for entry in store.request.entries:
        start = store.get("start", entry)
        precision = start and start[0]["report"]["precision"]
        if precision and precision not in found:
            said = _probed(store, probe, "rate", precision=precision, seconds=_RATE_SECONDS)
            found[precision] = said["rate"]
    store.put(f"rates-{number}", found)
