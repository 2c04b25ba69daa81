"""Where candidates are tried: in a process of its own, or in this one where that cannot be.

In a process of its own nothing of a trial is left here, whatever an engine does to its process, and
a candidate that crashes or hangs takes nothing with it. On several ranks each has one, and together
they form a group of their own.
"""

from __future__ import annotations

import contextlib
import copy
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from acpt_trainer.auto.copies import Kit
from acpt_trainer.auto.randomness import kept_random_states
from acpt_trainer.measure.crew import Worker, WorkerError

Answer = dict[str, Any]
Gathered = Callable[[Any], list[Any]]
"""Gives what every rank has to every rank."""

_START_SECONDS = 180.0
_KIT = "kit.pt"
_ELASTIC = "TORCHELASTIC_"


class Host(Protocol):
    """Tries candidates."""

    def ask(self, do: str, number: int, seconds: float) -> Answer:
        """Has a candidate timed or compared.

        Args:
            do: `time` or `compare`.
            number: Of the candidate.
            seconds: How long it may take.
        """

    def renew(self) -> None:
        """Begins anew after something went wrong."""

    def close(self) -> None:
        """Ends."""


class Here:
    """This process, where what a module strategy does is undone when it closes."""

    def __init__(self, kit: Kit) -> None:
        from acpt_trainer.auto.tries import Tries

        self.tries = Tries(lambda: copy.deepcopy(kit))

    def ask(self, do: str, number: int, seconds: float) -> Answer:
        """Has a candidate timed or compared."""
        with kept_random_states(), _kept_environment():
            answer: Answer = getattr(self.tries, do)(number, seconds)
            return answer

    def renew(self) -> None:
        """There is nothing to renew."""

    def close(self) -> None:
        """There is nothing to end."""


class Apart:
    """A process of its own.

    Args:
        folder: For the kit, questions and answers.
        gathered: Gives what every rank has to every rank.

    Raises:
        WorkerError: If the kit cannot be used there.
    """

    def __init__(self, folder: Path, gathered: Gathered) -> None:
        self.folder, self.gathered = folder, gathered
        self.worker: Worker | None = None

    @staticmethod
    def pack(kit: Kit, folder: Path) -> str | None:
        """Writes the kit down for another process.

        Returns:
            Why that cannot be; None where it was done.
        """
        import torch

        trainer = kit.trainer
        classes = [type(trainer), *(type(m) for m in trainer.model.modules())]
        classes += [c.spec.load() for c in kit.candidates]
        own = next((c for c in classes if c.__module__ == "__main__"), None)
        if own is not None:
            return (
                f"{own.__name__} is defined in the script itself, where no other process finds it"
            )
        try:
            torch.save(kit, folder / _KIT)
        except Exception as error:  # whatever a user's object raises when it is pickled
            return f"it cannot be pickled: {str(error)[:200]}"
        return None

    def start(self) -> Answer:
        """Starts the process.

        Returns:
            `{"status": "ok"}`, or why it does not start.
        """
        port = self.gathered(_free_port())[0]
        job = {"kind": "tries", "imports": [], "answers_as": 0, "kit": str(self.folder / _KIT)}
        self.worker = Worker(self.folder, job, 1, _START_SECONDS, _environment(port))
        return self._ask(_START_SECONDS, "ready")

    def ask(self, do: str, number: int, seconds: float) -> Answer:
        """Has a candidate timed or compared."""
        return self._ask(seconds, do, number=number, seconds=seconds)

    def _ask(self, patience: float, do: str, **details: Any) -> Answer:
        if self.worker is None:
            return {"status": "failed", "reason": "the process for trials does not start"}
        self.worker.timeout = 1.2 * patience + 5  # it ends by itself first, where it can
        try:
            return {"status": "ok", **self.worker.ask(do, **details)[0]}
        except WorkerError as error:
            self.worker = None
            return {"status": error.status, "reason": self._reason(error), "fix": error.fix}

    def _reason(self, error: WorkerError) -> str:
        """An exit status alone says little; the last line of the log that warns of nothing does."""
        if error.status != "crashed":
            return error.reason
        log = self.folder / "log.txt"
        lines = (
            log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
        )
        told = (line.strip() for line in reversed(lines) if "warning" not in line.lower())
        last = next(filter(None, told), "")
        return ": ".join(filter(None, (error.reason.partition(";")[0], last[:200])))

    def renew(self) -> None:
        """Starts another process in its place."""
        self.close()
        if self.start()["status"] != "ok":
            self.worker = None

    def close(self) -> None:
        """Ends the process."""
        if self.worker is not None:
            self.worker.close()
            self.worker = None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def _environment(port: int) -> dict[str, str]:
    """That of this process, with a meeting point of its own, its modules and its threads."""
    import torch

    kept = {k: v for k, v in os.environ.items() if not k.startswith(_ELASTIC)}
    if "RANK" in kept:
        kept["MASTER_PORT"] = str(port)
    kept["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    kept["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    return kept


@contextlib.contextmanager
def _kept_environment() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
