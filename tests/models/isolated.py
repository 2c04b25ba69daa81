"""Runs checks in processes of their own, so that a crash of the engine is a row, not an end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from unittest import mock

from .checks import Row, run
from .families import families
from .zoo import entries

TIMEOUT = 300.0
"""Seconds that one check may take."""


@dataclass(frozen=True)
class Job:
    """Checks of one entry with one attention implementation."""

    entry: str
    attention: str
    checks: tuple[str, ...]


def run_jobs(
    jobs: Sequence[Job],
    report: Callable[[Row], None],
    workers: int = 1,
    target: Callable[[Connection, Job, str], None] | None = None,
) -> None:
    """Runs jobs side by side and reports the rows of each as soon as it has ended.

    Args:
        jobs: What to run.
        report: Called with each row, from several threads.
        workers: How many jobs run at once.
        target: What a child runs instead of the checks, for a test.
    """
    _start_server()
    with ThreadPoolExecutor(workers) as pool:
        for _ in pool.map(lambda job: _run_job(job, report, target or _check), jobs):
            pass


def _start_server() -> None:
    """Starts a server that imports everything once; a child is a fork of it and starts at once.

    Python 3.11 does not hand it `sys.path`, and says nothing where a module is not found.
    """
    modules = [f"{__package__}.checks", f"{__package__}.warm"]
    multiprocessing.get_context("forkserver").set_forkserver_preload(modules)
    found = os.pathsep.join(path for path in sys.path if path)
    with mock.patch.dict(os.environ, {"PYTHONPATH": found}):
        forkserver.ensure_running()


def _run_job(job: Job, report: Callable[[Row], None], target: Callable[..., None]) -> None:
    """Runs a job in child processes: where one crashes, the next goes on with the rest."""
    remaining = list(job.checks)
    while remaining:
        part = Job(job.entry, job.attention, tuple(remaining))
        rows, ended = _run_child(part, target)
        remaining = remaining[len(rows) :]
        if ended and remaining:
            rows.append(Row(job.entry, job.attention, remaining.pop(0), "crashed", ended))
        elif ended:
            rows[-1] = replace(rows[-1], status="crashed", reason=f"{ended}, after the check")
        for row in rows:
            report(row)


def _run_child(job: Job, target: Callable[..., None]) -> tuple[list[Row], str]:
    """Runs one child; returns its rows, and how it ended if not well."""
    context = multiprocessing.get_context("forkserver")
    reader, writer = context.Pipe(duplex=False)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        child = context.Process(target=target, args=(writer, job, str(log)))
        child.start()
        writer.close()
        try:
            while len(rows) < len(job.checks) and reader.poll(TIMEOUT):
                rows.append(reader.recv())
        except EOFError:
            pass  # it ended; its exit status tells how
        child.join(TIMEOUT)
        if child.exitcode is None:
            child.kill()
            return rows, f"no answer in {TIMEOUT:.0f} s"
        said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    code = child.exitcode
    if not code:
        return rows, "" if len(rows) == len(job.checks) else "it ended early"
    name = signal.Signals(-code).name if code < 0 else f"exit status {code}"
    return rows, f"{name} {said[-1][:200] if said else ''}".strip()


def _check(writer: Connection, job: Job, log: str) -> None:
    """What a child does."""
    import torch

    torch.set_num_threads(1)
    with open(log, "w") as file:  # what the engine writes as it dies
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    for row in run((entries() | families())[job.entry], job.attention, job.checks):
        writer.send(row)
