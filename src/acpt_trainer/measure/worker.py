"""A process that trains one strategy, and works only when it is asked to.

Started by `crew.Worker`, under torchrun for several processes; answers each question with a file.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from acpt_trainer.errors import AcptError, ConfigurationError
from acpt_trainer.measure.entry import PARTS
from acpt_trainer.measure.flops import matmul_rate, step_flops
from acpt_trainer.measure.machine import machine
from acpt_trainer.measure.mailbox import answer, question, read_json, wait_for, write_json
from acpt_trainer.measure.memory import peak_memory_mb
from acpt_trainer.measure.models import load_model, sample_batch
from acpt_trainer.measure.parity import verify
from acpt_trainer.measure.reference import Request
from acpt_trainer.measure.session import Rows, Session, Step

Answer = dict[str, Any]


class Trains:
    """Trains under a strategy when asked to."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.losses: list[torch.Tensor] = []

    def ready(self) -> Answer:
        """Says that everything is imported."""
        return {}

    def start(self, again: int = 0) -> Answer:
        """Builds everything and makes the first step, and some more to warm up.

        Args:
            again: Steps that a killed worker had made in its turns: they are made once more,
                unmeasured, so that losses are those of one run.
        """
        job = self.job
        torch.manual_seed(job["seed"])
        model = load_model(job["model"], job["attention"])
        per_step = job["batch_size"] * job["nproc"]
        rows = Rows(model, job["block_size"], per_step, job["lengths"], job["seed"])
        started = time.perf_counter()
        self.session = Session(
            model, job["strategy"], job["precision"], rows, job["batch_size"],
            lambda p: torch.optim.AdamW(p, lr=job["learning_rate"], fused=True),
        )  # fmt: skip
        prepare = time.perf_counter() - started
        first = self._steps(1)[0]
        self._steps(job["warmup_steps"] + again)
        return {
            "prepare_seconds": prepare,
            "first_step_seconds": first.total,
            **self._state(),
        }

    def turn(self, steps: int) -> Answer:
        """Makes a step that is not measured, since others had the caches, and then `steps`."""
        self._steps(1)
        made = self._steps(steps)
        return {
            "seconds": [[step.seconds[part] for part in PARTS] for step in made],
            "samples": sum(step.samples for step in made),
            "tokens": sum(step.tokens for step in made),
            **self._state(),
        }

    def _steps(self, count: int) -> list[Step]:
        made = [self.session.step() for _ in range(count)]
        self.losses += [step.loss for step in made]
        return made

    def _state(self) -> Answer:
        report = self.session.report()
        return {
            "losses": [float(loss) for loss in self.losses],
            "peak_memory_mb": peak_memory_mb(report.device),
            "report": report.to_dict(),
        }


class Probes:
    """Says what the machine can do and what the model needs."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def facts(self) -> Answer:
        """The machine, and the operations of training on one row."""
        job = self.job
        model = load_model(job["model"], "eager").to(self.device)
        batch = sample_batch(model, 1, job["block_size"])
        flops = step_flops(model, {k: v.to(self.device) for k, v in batch.items()})
        parameters = sum(p.numel() for p in model.parameters())
        return {
            "machine": machine(),
            "flops_per_sample": flops,
            "parameters": parameters,
            "model": type(model).__name__,
        }

    def rate(self, precision: str, seconds: float) -> Answer:
        """How many operations a second a matrix multiplication makes."""
        return {"rate": matmul_rate(precision, self.device, seconds)}


def _tries(job: dict[str, Any]) -> Any:
    """Tries candidates of `auto` on what was packed for it."""
    from acpt_trainer.auto.tries import Tries

    return Tries(lambda: torch.load(job["kit"], weights_only=False))


class Verifies:
    """Compares a strategy with eager PyTorch, all processes together."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.request = Request(**job["request"])

    def verify(self) -> Answer:
        """The verdict."""
        return verify(self.request, print).to_dict()


def fault(error: Exception) -> Answer:
    """An error as an answer: what a user can mend is `refused`."""
    problems = error.problems if isinstance(error, ConfigurationError) else ()
    reason = "; ".join(p.what for p in problems) or str(error) or type(error).__name__
    fix = "; ".join(dict.fromkeys(p.fix for p in problems))
    known = isinstance(error, AcptError)
    return {
        "status": "refused" if known else "failed",
        "reason": reason if known else f"{type(error).__name__}: {reason}"[:1000],
        "fix": fix or getattr(error, "fix", None) or "",
    }


def serve(folder: Path, rank: int, alive: Callable[[], bool]) -> None:
    """Answers questions until told to stop, or until nobody asks any more."""
    job = read_json(folder / "job.json")
    for module in job["imports"]:
        importlib.import_module(module)
    kinds: dict[str, Callable[[dict[str, Any]], Any]] = {
        "trains": Trains, "probes": Probes, "verifies": Verifies, "tries": _tries,
    }  # fmt: skip
    works = kinds[job["kind"]](job)
    rank = job.get("answers_as", rank)
    number = 0
    while (asked := wait_for(question(folder, number), alive)) and asked["do"] != "stop":
        try:
            said = getattr(works, asked.pop("do"))(**asked)
        except Exception as error:
            traceback.print_exc()
            said = {"error": fault(error)}
        write_json(answer(folder, number, rank), said)
        if "error" in said:
            break
        number += 1


def main() -> None:
    """Serves the folder on the command line, as long as the process that asks lives."""
    folder, asks = Path(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))

    def alive() -> bool:
        try:
            os.kill(asks, 0)
        except OSError:
            return False
        return True

    status = 0
    try:
        serve(folder, int(os.environ.get("RANK", "0")), alive)
    except SystemExit as told:
        status = told.code if isinstance(told.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    # Engines hold threads and groups whose ends wait for each other.
    os._exit(status)


if __name__ == "__main__":
    main()
