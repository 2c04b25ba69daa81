"""A model in ONNX Runtime beside its twin in PyTorch, step by step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import nn

from acpt_trainer.ort import weight_gradients
from acpt_trainer.ort.forward import OrtForward, attach

from .zoo import Batch, Entry

LOSS_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4


class DiffersError(AssertionError):
    """The two sides are not the same; the message says where."""


class Pair:
    """A model in ONNX Runtime and its twin in PyTorch, trained side by side."""

    def __init__(self, entry: Entry, attention: str, dropout: bool) -> None:
        self.entry = entry
        self.ours = entry.build(attention, dropout)
        self.theirs = copy.deepcopy(self.ours)
        self.forward: OrtForward = attach(self.ours)
        self.loss = self.gradient = 0.0
        self.parameter = ""
        self.returned: dict[bool, Any] = {}  # what the last call returned, by whether it was ours

    def step(self, batch: Batch, loss_of: Callable[[nn.Module, Batch], torch.Tensor]) -> None:
        """One training step of both, compared, and an SGD update of both."""
        losses = []
        for model in (self.ours, self.theirs):
            model.zero_grad(set_to_none=True)
            # These models are tiny; the weights of users' models are large.
            with mock.patch.object(weight_gradients, "SMALLEST", 1):
                loss = loss_of(model, copied(batch))
            loss.backward()
            losses.append(loss.item())
        ours, theirs = losses
        self.loss = max(self.loss, abs(ours - theirs) / max(abs(theirs), 1e-12))
        for name, difference in gradient_differences(self.ours, self.theirs):
            if not difference <= self.gradient:
                self.gradient, self.parameter = difference, name
        if not self.loss <= LOSS_TOLERANCE:
            raise DiffersError(f"loss {ours:.7g}, and {theirs:.7g} in PyTorch")
        if not self.gradient <= GRADIENT_TOLERANCE:
            raise DiffersError(f"gradient of {self.parameter} differs by {self.gradient:.1e}")
        self._compare_outputs()
        for model in (self.ours, self.theirs):
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # large steps would diverge
            torch.optim.SGD(model.parameters(), lr=0.05).step()

    def loss_inside(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """The loss that the model computes itself."""
        return self.entry.loss_of(self.call(model, batch))

    def call(self, model: nn.Module, batch: Batch) -> Any:
        """Calls a model, and keeps what it returns until its next call."""
        self.returned[model is self.ours] = output = model(**batch)
        return output

    def _compare_outputs(self) -> None:
        """After the backward pass, which may write into memory that an output is in."""
        ours, theirs = (list(self._tensors(self.returned[side])) for side in (True, False))
        if [n for n, _ in ours] != [n for n, _ in theirs]:
            raise DiffersError(f"outputs {[n for n, _ in ours]}, and {[n for n, _ in theirs]}")
        for (name, a), (_, b) in zip(ours, theirs, strict=True):
            a, b = a.detach().double(), b.detach().double()
            if not (a - b).norm() <= GRADIENT_TOLERANCE * max(b.norm().item(), 1e-3):
                raise DiffersError(f"output {name} differs after the backward pass")

    def _tensors(self, value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
        if torch.is_tensor(value):
            yield name, value
        elif isinstance(value, dict):
            for key, item in value.items():
                if item is not None and key != "past_key_values":  # ours has no cache
                    yield from self._tensors(item, f"{name}.{key}".lstrip("."))
        elif isinstance(value, (tuple, list)):
            for i, item in enumerate(value):
                yield from self._tensors(item, f"{name}[{i}]")


def gradient_differences(ours: nn.Module, theirs: nn.Module) -> Iterator[tuple[str, float]]:
    """Each parameter's relative difference of gradients; infinite if one side has none."""
    norms = [p.grad.norm() for p in theirs.parameters() if p.grad is not None]
    floor = 1e-3 * max(norms)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        if a.grad is None or b.grad is None:
            yield name, 0.0 if a.grad is b.grad else float("inf")
        else:
            yield name, ((a.grad - b.grad).norm() / max(b.grad.norm(), floor)).item()


def copied(batch: Batch) -> Batch:
    """A batch whose tensors a model may change."""
    return {k: v.clone() if torch.is_tensor(v) else v for k, v in batch.items()}
