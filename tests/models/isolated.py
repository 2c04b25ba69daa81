"""Runs checks in processes of their own, so that a crash of the engine is a row, not an end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from .checks import Row, run
from .zoo import entries

TIMEOUT = 300.0
"""Seconds that one check may take."""


@dataclass(frozen=True)
class Job:
    """Checks of one entry with one attention implementation."""

    entry: str
    attention: str
    checks: tuple[str, ...]


def run_jobs(jobs: Sequence[Job], report: Callable[[Row], None], workers: int = 1) -> None:
    """Runs jobs side by side and reports each row as soon as it is known."""
    # The server imports everything once; a child is a fork of it and starts at once.
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        [f"{__package__}.checks", f"{__package__}.warm"]
    )
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(lambda job: run_job(job, report), jobs):
            pass


def run_job(job: Job, report: Callable[[Row], None]) -> None:
    """Runs a job in a child process; a crash is the row of its check, the rest goes on anew."""
    remaining = list(job.checks)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        while remaining:
            reason = _run_child(
                Job(job.entry, job.attention, tuple(remaining)), report, remaining, log
            )
            if remaining:
                report(Row(job.entry, job.attention, remaining.pop(0), "crashed", reason))


def _run_child(job: Job, report: Callable[[Row], None], remaining: list[str], log: Path) -> str:
    """Takes checks off `remaining` as their rows arrive; returns how it ended, if early."""
    context = multiprocessing.get_context("forkserver")
    reader, writer = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(writer, job, str(log)))
    child.start()
    writer.close()
    timed_out = False
    try:
        while remaining:
            if not reader.poll(TIMEOUT):
                timed_out = True
                child.kill()
                break
            row = reader.recv()
            remaining.remove(row.check)
            report(row)
    except EOFError:
        pass  # it ended; the exit code tells how
    child.join()
    if timed_out:
        return f"no answer in {TIMEOUT:.0f} s"
    code = child.exitcode or 0
    name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    return f"{name} {said[-1][:200] if said else ''}".strip()


def _child(writer: Connection, job: Job, log: str) -> None:
    import torch

    torch.set_num_threads(1)
    with open(log, "w") as file:  # what the engine writes as it dies
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for row in run(entries()[job.entry], job.attention, job.checks):
        writer.send(row)
