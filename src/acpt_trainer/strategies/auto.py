"""`auto`: the strategy that is fastest here, found when a Trainer begins to train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from acpt_trainer.errors import Problem
from acpt_trainer.strategies.base import (
    AcceleratorStrategy,
    Layer,
    StrategyStatus,
    TrainingContext,
)

if TYPE_CHECKING:
    import os

PRECISIONS = ("fp32", "bf16")
"""What candidates are compared in, the one that the others are held to first."""


class AutoStrategy(AcceleratorStrategy):
    """Takes the place of a strategy until `train()` has tried which one is fastest.

    It runs nothing itself: the trainer is bound to the winner before it trains.

    Args:
        candidates: Names of the strategies to try; all that are registered if None. `no_acc` is
            always tried, since the others are held to it.
        precisions: Precisions that may be taken, of `fp32` and `bf16`. If None, the trainer's own;
            with `precision="auto"` both.
        budget: What trying may cost: seconds, or a share of the run such as `"5%"`.
        steps: Steps that are measured of each candidate, after those that warm up.
        cache: Whether verdicts are kept between runs, or the folder to keep them in.
    """

    name: ClassVar[str] = "auto"
    layer: ClassVar[Layer] = Layer.ENGINE
    description: ClassVar[str] = "tries the others at train() and takes the fastest"
    conflicts: ClassVar[dict[str, str]] = {"*": "auto chooses among strategies, combined ones too"}

    def __init__(
        self,
        candidates: Sequence[str] | None = None,
        precisions: Sequence[str] | None = None,
        budget: float | str = 300.0,
        steps: int = 8,
        cache: bool | str | os.PathLike[str] = True,
    ) -> None:
        self.candidates = candidates
        self.allowed = precisions
        self.budget = budget
        self.steps = steps
        self.cache = cache

    def options(self) -> dict[str, Any]:
        """The options that it was built with."""
        return {
            "candidates": None if self.candidates is None else list(self.candidates),
            "precisions": None if self.allowed is None else list(self.allowed),
            "budget": self.budget,
            "steps": self.steps,
            "cache": self.cache if isinstance(self.cache, bool) else str(self.cache),
        }

    def precisions(self, device: str) -> tuple[str, ...]:
        """Those that candidates are compared in."""
        return ("bf16", "fp32")

    def seconds(self, run_seconds: float) -> float:
        """What trying may cost.

        Args:
            run_seconds: How long the run takes without a strategy.
        """
        if isinstance(self.budget, str):
            return float(self.budget.removesuffix("%")) / 100 * run_seconds
        return float(self.budget)

    def problems(self, context: TrainingContext) -> list[Problem]:
        """Its own options, and where there is no `train()` at which it could choose."""
        found = super().problems(context)
        if context.args is None:
            found.append(
                Problem(
                    "auto chooses when a Trainer begins to train, and here is none",
                    "create_accelerator('auto')",
                    "use AcceleratedTrainer, or measure with acpt-trainer bench and name the "
                    "fastest",
                )
            )
        for what, fix in self._faults():
            found.append(Problem(what, f"options of {self.label!r}", fix))
        return found

    def _faults(self) -> list[tuple[str, str]]:
        found = []
        text = str(self.budget).removesuffix("%") if isinstance(self.budget, str) else self.budget
        share = isinstance(self.budget, str) and self.budget.endswith("%")
        try:
            good = float(text) > 0 and share == isinstance(self.budget, str)
        except (TypeError, ValueError):
            good = False
        if not good or isinstance(self.budget, bool):
            found.append((f"budget is {self.budget!r}", "give seconds, or a share such as '5%'"))
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.steps < 1:
            found.append((f"steps is {self.steps!r}", "give an int >= 1"))
        if self.allowed is not None and not _names(self.allowed, PRECISIONS):
            found.append((f"precisions is {self.allowed!r}", f"give some of {PRECISIONS}"))
        if self.candidates is not None and not _names(self.candidates):
            found.append((f"candidates is {self.candidates!r}", "give a list of strategy names"))
            return found
        return found + self._unknown()

    def _unknown(self) -> list[tuple[str, str]]:
        from acpt_trainer.errors import ConfigurationError
        from acpt_trainer.registry import get_strategy

        found = []
        for name in self.candidates or ():
            try:
                spec = get_strategy(name)
                if issubclass(spec.load(), AutoStrategy):
                    found.append((f"{name!r} cannot be its own candidate", "leave it out"))
            except ConfigurationError as error:
                found += [(p.what, p.fix) for p in error.problems]
            except ImportError:
                continue  # its row says so
        return found

    def status(self) -> StrategyStatus:
        """Nothing has run: what runs is the winner."""
        return StrategyStatus.pending("auto chooses when train() begins")


def _names(given: Any, of: Sequence[str] | None = None) -> bool:
    """Whether it is a list of names, of those that there are."""
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        return False
    return all(isinstance(n, str) and (of is None or n in of) for n in given)
