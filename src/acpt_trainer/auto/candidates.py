"""Which strategies and precisions `auto` tries, in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from acpt_trainer.auto.verdict import Row
from acpt_trainer.precision import best_precision
from acpt_trainer.registry import (
    StrategySpec,
    available_strategies,
    get_strategy,
    register_strategy,
)
from acpt_trainer.strategies.auto import PRECISIONS, AutoStrategy
from acpt_trainer.strategies.base import AcceleratorStrategy, Layer

REFERENCE = "no_acc"
"""What every other candidate is held to."""

_SAME = "ddp"
"""What `no_acc` is over several processes; tried only where it is named."""


@dataclass(frozen=True)
class Candidate:
    """A strategy in a precision.

    Attributes:
        spec: The strategy.
        precision: What it is to train in.
        parts: Those that it is made of by name, for a process where they are not registered.
    """

    spec: StrategySpec
    precision: str
    parts: tuple[StrategySpec, ...] = ()

    @classmethod
    def of(cls, spec: StrategySpec, precision: str) -> Candidate:
        """A candidate with its parts."""
        parts = (part for part in spec.preset.get("parts", ()) if isinstance(part, str))
        return cls(spec, precision, tuple(map(get_strategy, parts)))

    def build(self) -> AcceleratorStrategy:
        """Constructs the strategy."""
        for part in self.parts:
            if part.name not in available_strategies():
                register_strategy(part.name, part.target, **part.preset)
        return self.spec.build()

    @property
    def label(self) -> str:
        """Its name for messages."""
        return f"{self.spec.name} in {self.precision}"

    def owns_the_process(self) -> bool:
        """Whether it leaves traces in its process: an engine, a process group."""
        return self.spec.load().layer is Layer.ENGINE


def precisions(auto: AutoStrategy, asked: str | None, settled: str, device: str) -> tuple[str, ...]:
    """The precisions that may be taken, the safest first.

    Args:
        auto: The strategy.
        asked: What the trainer was asked for, or None.
        settled: What it has now.
        device: Type of the device.
    """
    if auto.allowed is not None:
        return tuple(p for p in PRECISIONS if p in auto.allowed)
    if asked != "auto":
        return (settled,)
    # A half precision that the device is slow in is tried where it is named.
    return PRECISIONS if best_precision(device) == "bf16" else PRECISIONS[:1]


def candidates(
    auto: AutoStrategy, allowed: Sequence[str], device: str
) -> tuple[list[Candidate], list[Row]]:
    """What can be tried, the reference first and engines last, and a row for all else.

    Args:
        auto: The strategy.
        allowed: The precisions that may be taken.
        device: Type of the device.
    """
    named = auto.candidates
    names = [n for n in available_strategies() if n != _SAME] if named is None else [*named]
    tried, rows = [], []
    for name in dict.fromkeys([REFERENCE, *names]):
        spec = get_strategy(name)
        missing = spec.problems()
        if missing:
            rows.append(Row(name, allowed[0], "not here", missing[0].what, missing[0].fix))
            continue
        if issubclass(spec.load(), AutoStrategy):
            continue
        try:
            trains_in = spec.build().precisions(device)
        except Exception as error:  # another package's strategy must not stop the others
            rows.append(Row(name, allowed[0], "failed", f"{type(error).__name__}: {error}"))
            continue
        able = [p for p in allowed if p in trains_in]
        tried += [Candidate.of(spec, p) for p in able]
        if not able:
            what = f"does not train in {' or '.join(allowed)} on {device}"
            rows.append(Row(name, allowed[0], "refused", what))
    return sorted(tried, key=_order), rows


def _order(candidate: Candidate) -> tuple[Any, ...]:
    name = candidate.spec.name
    return (
        name != REFERENCE,
        candidate.owns_the_process(),
        candidate.spec.build().checkpoint_format == "deepspeed",
        "compile" in name,  # the longest start
        PRECISIONS.index(candidate.precision),
    )
