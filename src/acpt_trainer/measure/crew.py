"""The other side of `worker`: starts a process, asks, and waits for the answer of every rank."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from acpt_trainer.measure.machine import cores
from acpt_trainer.measure.mailbox import answer, question, read_json, wait_for, write_json

_LAUNCHER = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR",
    "MASTER_PORT",
)  # fmt: skip
_GOODBYE_SECONDS = 10.0


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
        self.asked = 0
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
        number, self.asked = self.asked, self.asked + 1
        write_json(question(self.folder, number), {"do": do, **details})
        files = [answer(self.folder, number, rank) for rank in range(self.nproc)]
        try:
            answers = [wait_for(file, lambda: self._goes_on(files), self.timeout) for file in files]
        except TimeoutError:
            self._end()
            raise WorkerError("timed out", f"no answer in {self.timeout:.0f} seconds") from None
        fault = _fault(files)
        if fault is not None:
            self.close()
            raise WorkerError(**fault)
        if None in answers:
            code = self.process.wait()
            raise WorkerError("crashed", f"exit status {code}; see {self.folder / 'log.txt'}")
        return answers

    def _goes_on(self, files: Sequence[Path]) -> bool:
        """Whether an answer may come: a rank that failed leaves the others waiting for it."""
        return self.process.poll() is None and _fault(files) is None

    def close(self) -> None:
        """Ends the process."""
        if self.process.poll() is None:
            write_json(question(self.folder, self.asked), {"do": "stop"})
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_GOODBYE_SECONDS)
        self._end()

    def _end(self) -> None:
        """Ends it now: first so that it can give up its locks, such as that of an extension."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_GOODBYE_SECONDS / 2)
        with contextlib.suppress(ProcessLookupError):  # torchrun's children too
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


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
