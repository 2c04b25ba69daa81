"""The other side of `worker`: starts a process, asks, and waits for the answer of every rank."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil

from acpt_trainer.measure.machine import cores
from acpt_trainer.measure.mailbox import answer, question, read_json, wait_for, write_json

_LAUNCHER = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR",
    "MASTER_PORT",
)  # fmt: skip
_GOODBYE_SECONDS = 5.0
"""What processes get to end by themselves."""


class WorkerError(Exception):
    """A worker has no answer: `status` and `reason` say why."""

    def __init__(self, status: str, reason: str, fix: str = "") -> None:
        super().__init__(f"{status}: {reason}")
        self.status, self.reason, self.fix = status, reason, fix


class Worker:
    """A process, or several under torchrun, with a folder for questions and answers.

    Args:
        folder: Where they are kept, with the log. What an earlier worker left is removed.
        job: What to do.
        nproc: Number of processes.
        timeout: Seconds to wait for an answer.
        environment: Its variables; if None, this process's, with the cores shared out.
    """

    def __init__(
        self,
        folder: Path,
        job: dict[str, Any],
        nproc: int,
        timeout: float,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.folder, self.nproc, self.timeout = folder, nproc, timeout
        self.asked, self.idle = 0, False
        folder.mkdir(parents=True, exist_ok=True)
        for file in [*folder.glob("ask-*.json"), *folder.glob("answer-*.json")]:
            file.unlink()
        write_json(folder / "job.json", job)
        with (folder / "log.txt").open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [*_command(nproc), str(folder), str(os.getpid())],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                env=environment or _environment(nproc), start_new_session=True,
            )  # fmt: skip

    def ask(self, do: str, **details: Any) -> list[dict[str, Any]]:
        """Asks and waits.

        Returns:
            The answers by rank.

        Raises:
            WorkerError: If there is none, in time.
        """
        number, self.asked, self.idle = self.asked, self.asked + 1, False
        write_json(question(self.folder, number), {"do": do, **details})
        files = [answer(self.folder, number, rank) for rank in range(self.nproc)]
        try:
            answers = [wait_for(file, lambda: self._goes_on(files), self.timeout) for file in files]
        except TimeoutError:
            self.close()
            raise WorkerError("timed out", f"no answer in {self.timeout:.0f} seconds") from None
        fault = _fault(files)
        if fault is not None:
            self.close()
            raise WorkerError(**fault)
        if None in answers:
            code = self.process.wait()
            raise WorkerError("crashed", f"exit status {code}; see {self.folder / 'log.txt'}")
        self.idle = True
        return answers

    def _goes_on(self, files: Sequence[Path]) -> bool:
        """Whether an answer may come: a rank that failed leaves the others waiting for it."""
        return self.process.poll() is None and _fault(files) is None

    def dismiss(self) -> list[psutil.Process]:
        """Tells it to end: when it waits for a question by an answer, else by a signal.

        Returns:
            What it has started, such as torchrun, which gives each process a session of its own.
        """
        found: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.process.pid).children(recursive=True)
        if self.idle:
            write_json(question(self.folder, self.asked), {"do": "stop"})
        else:  # not killed: it may hold a lock, such as that of an extension
            self.process.terminate()
        return found

    def close(self) -> None:
        """Ends the process."""
        end([self])


@contextlib.contextmanager
def ended_together() -> Iterator[list[Worker]]:
    """Workers that are put in the list are ended with the block, however it ends."""
    workers: list[Worker] = []
    try:
        yield workers
    finally:
        end(workers)


def end(workers: Iterable[Worker]) -> None:
    """Ends workers, all at once; those that do not end by themselves in time are killed."""
    workers = [worker for worker in workers if worker.process.poll() is None]
    started: list[psutil.Process] = []
    until = time.monotonic() + _GOODBYE_SECONDS
    try:
        for worker in workers:
            started += worker.dismiss()
        for worker in workers:
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.0, until - time.monotonic()))
        psutil.wait_procs(started, max(0.0, until - time.monotonic()))
    finally:  # a second Ctrl-C is impatient
        for process in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for worker in workers:
            worker.process.kill()
            worker.process.wait()


def _fault(files: Sequence[Path]) -> dict[str, Any] | None:
    said = (read_json(file) for file in files)
    return next((answered["error"] for answered in said if answered and "error" in answered), None)


def _command(nproc: int) -> Sequence[str]:
    launcher = [sys.executable]
    if nproc > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(nproc)]
    return [*launcher, "-m", "acpt_trainer.measure.worker"]


def _environment(nproc: int) -> dict[str, str]:
    """Shares the cores among the processes, unless the user says how many threads each gets."""
    kept = {k: v for k, v in os.environ.items() if k not in _LAUNCHER}
    kept.setdefault("OMP_NUM_THREADS", str(max(1, cores() // nproc)))
    kept.setdefault("TOKENIZERS_PARALLELISM", "false")
    return kept
