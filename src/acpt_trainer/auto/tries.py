"""A candidate tried on copies of a trainer: its steps timed, its first gradients compared."""

from __future__ import annotations

import contextlib
import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from acpt_trainer.auto.candidates import Candidate
from acpt_trainer.auto.copies import Kit, set_going
from acpt_trainer.errors import AcptError
from acpt_trainer.integration import is_sharded
from acpt_trainer.measure.compare import differences, relative
from acpt_trainer.measure.models import switch_dropout_off
from acpt_trainer.measure.tensors import Gradients, Tensors
from acpt_trainer.measure.tolerance import tolerance_for

WARMUP_STEPS = 2
"""Steps after the first that are not measured."""

_LEAST = 3
"""Measured steps that are enough where time runs out."""

Answer = dict[str, Any]


class OverBudgetError(AcptError):
    """A candidate used up its share of the time."""


class Tries:
    """Tries candidates when asked to.

    Args:
        fresh: Makes a copy of the kit.
    """

    def __init__(self, fresh: Callable[[], Kit]) -> None:
        self._copy = fresh

    def fresh(self) -> Kit:
        """A copy of the kit, once what is left of the one before is gone."""
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        return self._copy()

    def ready(self) -> Answer:
        """Makes sure that there is a copy of everything."""
        self.fresh()
        return {}

    def time(self, number: int, seconds: float) -> Answer:
        """Trains some steps as the run will train.

        Args:
            number: Of the candidate.
            seconds: How long it may take.
        """
        return _answered(lambda: self._time(number, seconds))

    def compare(self, number: int, seconds: float) -> Answer:
        """Trains a step without dropout and compares its loss and gradients with the reference's.

        Candidate 0 is the reference, and its own are kept.
        """
        return _answered(lambda: self._compare(number, seconds))

    def _time(self, number: int, seconds: float) -> Answer:
        began = time.perf_counter()
        kit = self.fresh()
        clock = self._steps(kit, number, 1 + WARMUP_STEPS + kit.steps, seconds)
        steps = clock.seconds[1 + WARMUP_STEPS :]
        first = clock.seconds[0]
        left = seconds - (time.perf_counter() - began)
        if not clock.over:
            # As the run will start: what is built once and kept (exports, extensions) is there.
            with contextlib.suppress(OverBudgetError):
                first = min(first, self._steps(self.fresh(), number, 1, left).seconds[0])
        return {"first_seconds": first, "step_seconds": statistics.median(steps)}

    def _steps(self, kit: Kit, number: int, count: int, seconds: float) -> _Clock:
        started = time.perf_counter()
        trainer = set_going(kit, kit.candidates[number], count)
        clock = _Clock(trainer, started, seconds)
        _train(trainer)
        return clock

    def _compare(self, number: int, seconds: float) -> Answer:
        kit = self.fresh()
        file, candidate = Path(kit.folder) / "reference.pt", kit.candidates[number]
        if number == 0:
            tolerances = {
                c.precision: tolerance_for(kit.trainer.model, c.precision) for c in kit.candidates
            }
            loss, gradients = self._first_step(kit, candidate, seconds, seed=0)
            other, _ = self._first_step(self.fresh(), candidate, seconds, seed=1)
            random = not relative(other, loss) <= tolerances[candidate.precision].loss
            torch.save((loss, gradients, tolerances, random), file)
            return {"difference": None}
        theirs, expected, tolerances, random = torch.load(file, weights_only=False)
        if random:
            return {
                "status": "differs",
                "reason": "the model draws random numbers that are no dropout, so that nothing can "
                "be compared with no_acc",
            }
        loss, gradients = self._first_step(kit, candidate, seconds, seed=0)
        allowed = tolerances[candidate.precision]
        apart = differences(gradients, expected)
        worst = max(apart.values(), default=0.0)
        found: Answer = {"difference": worst}
        wrong = next((name for name, value in apart.items() if not value <= allowed.gradient), None)
        if not relative(loss, theirs) <= allowed.loss:
            found |= {
                "status": "differs",
                "reason": f"the first loss is {loss:.7g}, and {theirs:.7g} under no_acc",
            }
        elif wrong is not None:
            found |= {
                "status": "differs",
                "reason": f"the gradient of {wrong} differs by {apart[wrong]:.1e}, and rounding "
                f"explains {allowed.gradient:.1e}",
            }
        return found

    def _first_step(
        self, kit: Kit, candidate: Candidate, seconds: float, seed: int
    ) -> tuple[float, Tensors]:
        kit.trainer.neftune_noise_alpha = None
        kit.trainer.args.max_grad_norm = 0.0
        switch_dropout_off(kit.trainer.model)
        torch.manual_seed(seed)
        started = time.perf_counter()
        trainer = set_going(kit, candidate, 1)
        _Clock(trainer, started, seconds)
        taken = _Taken(trainer)
        _train(trainer)
        return taken.loss, taken.gradients


def _train(trainer: Any) -> None:
    """Trains, past a `train` that the user's class may have."""
    from acpt_trainer.trainer import AcceleratedTrainerMixin, VerifyCallback

    trainer.add_callback(VerifyCallback(trainer))
    AcceleratedTrainerMixin.train(trainer)


def _answered(work: Callable[[], Answer]) -> Answer:
    """Makes an answer of whatever goes wrong."""
    from acpt_trainer.measure.worker import fault

    try:
        return {"status": "ok", **work()}
    except OverBudgetError as error:
        return {"status": "over budget", "reason": str(error)}
    except Exception as error:
        return fault(error)


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Times optimizer steps, and ends the training when it has taken too long on any rank."""

    def __init__(self, trainer: Any, started: float, allowed: float) -> None:
        self.seconds: list[float] = []
        self.began = self.mark = started
        self.allowed, self.over = allowed, False
        self.accelerator = trainer.accelerator
        trainer.add_callback(self)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.device.type == "cuda":
            torch.cuda.synchronize(args.device)
        now = time.perf_counter()
        self.seconds.append(now - self.mark)
        self.over = self._anywhere(now - self.began > self.allowed)
        self.mark = time.perf_counter()
        if not self.over or state.global_step >= state.max_steps:
            return
        if len(self.seconds) < 1 + WARMUP_STEPS + _LEAST:
            raise OverBudgetError(
                f"{len(self.seconds)} steps took {now - self.began:.1f} s, and its share of the "
                f"budget is {self.allowed:.1f} s"
            )
        control.should_training_stop = True

    def _anywhere(self, here: bool) -> bool:
        """Whether it is so on any rank: one that stopped alone would leave the others waiting."""
        if self.accelerator.num_processes == 1:
            return here
        flag = torch.tensor(float(here), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum") > 0)


class _Taken:
    """The loss and the gradients of the first step, over its micro-batches and all processes."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.step = trainer, trainer.training_step
        self.loss = 0.0
        self.gradients: Tensors = {}
        self._hooks: Gradients | None = None
        trainer.training_step = self.training_step

    def training_step(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        accelerator = self.trainer.accelerator
        if self._hooks is None:  # not before: an engine may have replaced the parameters
            self._hooks = Gradients(accelerator.unwrap_model(model))
        loss = self.step(model, *args, **kwargs)
        if is_sharded(model):
            self._hooks.complete()

        def mean(value: torch.Tensor) -> torch.Tensor:
            moved: torch.Tensor = accelerator.reduce(value.to(accelerator.device), reduction="mean")
            return moved

        self._hooks.average(mean)
        self.loss += float(mean(loss))
        for name, value in self._hooks.values.items():
            earlier = self.gradients.get(name)
            self.gradients[name] = value if earlier is None or value is None else earlier + value
        self._hooks.values.clear()
        return loss
