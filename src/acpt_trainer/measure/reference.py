"""Eager PyTorch's training steps, which a strategy is compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from acpt_trainer.errors import ConfigurationError, Problem
from acpt_trainer.measure.compare import rms
from acpt_trainer.measure.models import load_model
from acpt_trainer.measure.session import Rows
from acpt_trainer.measure.tensors import Tensors, trained, weights
from acpt_trainer.measure.tolerance import tolerance_for

_LEARNING_RATE = 1e-3

Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What to compare.

    Attributes:
        model: Name, folder or config, see `load_model`.
        strategy: The strategy's name.
        precision: `fp32` or `bf16`; eager PyTorch computes in fp32 in either case.
        steps: Optimizer steps.
        batch_size: Rows of a process in a step.
        block_size: Tokens of a row.
        seed: Seed of weights, rows and dropout.
        draws: Losses drawn to compare dropout; 0 leaves it out.
        attention: Attention implementation; the model's own if None.
        nproc: Processes of the strategy; each is compared with eager PyTorch on all their rows.
    """

    model: str
    strategy: str
    precision: str = "fp32"
    steps: int = 5
    batch_size: int = 2
    block_size: int = 64
    seed: int = 0
    draws: int = 24
    attention: str | None = None
    nproc: int = 1

    def build(self, dropout: bool) -> nn.Module:
        """The model, the same weights each time."""
        torch.manual_seed(self.seed)
        return load_model(self.model, self.attention, dropout)

    def rows(self, model: nn.Module) -> Rows:
        """The data."""
        return Rows(model, self.block_size, self.batch_size * self.nproc, seed=self.seed)


class Reference:
    """The run to compare with; its tensors are kept on disk."""

    def __init__(self, request: Request, folder: Path, say: Say) -> None:
        self.request, self.folder = request, folder
        self.losses: list[float] = []
        model = request.build(dropout=False).train().to(device())
        self.start = weights(model)
        self.tolerance = tolerance_for(model, request.precision)
        optimizer: torch.optim.Optimizer | None = None
        rows = request.batch_size * request.nproc
        for number, batch in zip(range(request.steps), batches(request, model, rows), strict=False):
            loss = model(**batch).loss
            loss.backward()
            self.losses.append(_finite(float(loss.detach()), number + 1))
            gradients = {n: p.grad for n, p in trained(model)}
            if optimizer is None:
                self.epsilon = max(rms(g) for g in gradients.values() if g is not None)
                optimizer = self.optimizer(model.parameters())
            optimizer.step()
            torch.save((gradients, weights(model)), self._file(number))
            optimizer.zero_grad()
            say(f"eager PyTorch, step {number + 1} of {request.steps}: loss {self.losses[-1]:.6f}")
        del model, optimizer
        self.drawn = self._draw(say) if request.draws else []

    def optimizer(self, parameters: Any) -> torch.optim.Optimizer:
        """AdamW that does not blow up rounding.

        Adam divides a gradient by its own size: one that is zero but for rounding becomes a whole
        step of a random sign. With an epsilon as large as the largest gradient it stays small.
        """
        return torch.optim.AdamW(parameters, lr=_LEARNING_RATE, eps=self.epsilon)

    def step(self, number: int) -> tuple[Tensors, Tensors]:
        """Gradients of a step, and the parameters after it."""
        gradients, after = torch.load(self._file(number), map_location="cpu")
        return gradients, after

    def _file(self, number: int) -> Path:
        return self.folder / f"{number}.pt"

    def _draw(self, say: Say) -> list[float]:
        model = self.request.build(dropout=True).train().to(device())
        batch = next(batches(self.request, model, self.request.batch_size))
        say(f"eager PyTorch, dropout: {self.request.draws} draws")
        with torch.no_grad():
            return [float(model(**batch).loss) for _ in range(self.request.draws)]


def batches(request: Request, model: nn.Module, rows: int) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of so many rows, where the model is."""
    for batch in DataLoader(request.rows(model), batch_size=rows):
        yield {name: value.to(device()) for name, value in batch.items()}


def device() -> torch.device:
    """Where strategies train here."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _finite(loss: float, step: int) -> float:
    if math.isfinite(loss):
        return loss
    raise ConfigurationError(
        [
            Problem(
                f"eager PyTorch itself has a loss of {loss} at step {step}",
                "--model",
                "give a model that trains, or a smaller --block_size",
            )
        ],
        "Cannot compare",
    )
