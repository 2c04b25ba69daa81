"""Training of one model under one strategy, step by step, in this process."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import nn
from torch.utils.data import DataLoader, Dataset

from acpt_trainer.accelerator import create_accelerator, strategy_report
from acpt_trainer.errors import NotEngagedError
from acpt_trainer.measure.entry import PARTS
from acpt_trainer.measure.models import sample_batch
from acpt_trainer.report import StrategyReport
from acpt_trainer.strategies.base import Status

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class Rows(Dataset[dict[str, torch.Tensor]]):  # type: ignore[misc]
    """Made-up rows for a model; a row depends on its number and the seed alone.

    Args:
        model: The model.
        block_size: Tokens in the longest rows.
        rows_per_step: Rows in a step over all processes; they have one length.
        lengths: How many lengths occur, from half of `block_size` to the whole of it.
        seed: Seed of the numbers.
    """

    def __init__(
        self, model: Any, block_size: int, rows_per_step: int, lengths: int = 1, seed: int = 0
    ) -> None:
        self.model, self.rows_per_step, self.seed = model, rows_per_step, seed
        span = block_size - max(2, block_size // 2)
        self.lengths = [block_size - span * i // max(1, lengths - 1) for i in range(lengths)]

    def __len__(self) -> int:
        return 2**30  # more than any measurement takes

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        # 7 has no factor in common with most numbers of lengths: neighbours differ by much.
        length = self.lengths[number // self.rows_per_step * 7 % len(self.lengths)]
        drawn = torch.Generator().manual_seed(self.seed * 2**32 + number)
        return {k: v[0] for k, v in sample_batch(self.model, 1, length, drawn).items()}


@dataclass
class Step:
    """One optimizer step of this process.

    Attributes:
        loss: The loss, on its device.
        samples: Rows.
        tokens: Tokens; 0 where the model takes none.
        seconds: By part, see `PARTS`.
    """

    loss: torch.Tensor
    samples: int
    tokens: int
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Seconds of the whole step."""
        return sum(self.seconds.values())


class Session:
    """A model, an optimizer and rows, prepared under a strategy.

    Args:
        model: The plain model.
        strategy: The strategy's name.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        rows: The data.
        batch_size: Rows of this process in a step.
        optimizer: Makes the optimizer.
    """

    def __init__(
        self,
        model: nn.Module,
        strategy: str,
        precision: str,
        rows: Rows,
        batch_size: int,
        optimizer: MakeOptimizer,
    ) -> None:
        self.accelerator = create_accelerator(strategy, precision=precision)
        loader: Any = DataLoader(rows, batch_size=batch_size)
        self.model, self.optimizer, loader = self.accelerator.prepare(
            model.train(), optimizer(model.parameters()), loader
        )
        self.plain = self.accelerator.unwrap_model(self.model)
        self._batches = iter(loader)
        self._engine_seconds = 0.0
        if hasattr(self.model, "step"):  # an engine that steps inside `accelerator.backward`
            self._time_engine(self.model)

    def _time_engine(self, engine: Any) -> None:
        original = engine.step

        def step(*args: Any, **kwargs: Any) -> Any:
            started = self._now()
            try:
                return original(*args, **kwargs)
            finally:
                self._engine_seconds += self._now() - started

        engine.step = step

    def _now(self) -> float:
        if self.accelerator.device.type == "cuda":
            torch.cuda.synchronize(self.accelerator.device)
        return time.perf_counter()

    def step(self, before_optimizer: Callable[[], None] | None = None) -> Step:
        """Trains one step.

        Args:
            before_optimizer: Called when gradients are there, except under an engine that steps
                inside its backward pass.
        """
        marks = [self._now()]
        batch = next(self._batches)
        marks.append(self._now())
        loss = self.model(**batch).loss
        marks.append(self._now())
        self._engine_seconds = 0.0
        self.accelerator.backward(loss)
        marks.append(self._now())
        if before_optimizer is not None:
            before_optimizer()
        self.optimizer.step()
        self.optimizer.zero_grad()
        marks.append(self._now())
        spent = dict(zip(PARTS, (b - a for a, b in itertools.pairwise(marks)), strict=True))
        spent["backward"] -= self._engine_seconds
        spent["optimizer"] += self._engine_seconds
        ids = batch.get("input_ids")
        rows = len(next(iter(batch.values())))
        return Step(loss.detach(), rows, 0 if ids is None else ids.numel(), spent)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of a tensor over the processes."""
        moved = value.to(self.accelerator.device)
        averaged: torch.Tensor = self.accelerator.reduce(moved, reduction="mean")
        return averaged

    def report(self) -> StrategyReport:
        """What really ran."""
        return strategy_report(self.accelerator)

    def close(self) -> None:
        """Undoes the strategy, so that another session may follow.

        Raises:
            NotEngagedError: If the strategy did not run the steps.
        """
        report = self.report()
        # Not `end_training`: it ends the process group, which DeepSpeed holds on to.
        self.accelerator.free_memory()
        # Accelerate keeps one state a process, and refuses a second one with DeepSpeed.
        AcceleratorState._reset_state(reset_partial_state=True)
        if report.status != str(Status.ENGAGED):
            raise NotEngagedError(
                f"strategy {report.strategy!r} did not run the steps ({report.status}): "
                f"{report.reason}"
            )
