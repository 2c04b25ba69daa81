"""What a strategy is: one way to make a training step faster or smaller, and proof that it ran."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from acpt_trainer.errors import Problem
from acpt_trainer.requirements import Requirement

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainingArguments


class Layer(enum.IntEnum):
    """Where a strategy sits around the model; it fixes the order of wrapping, inside first."""

    MODULE = 1
    """Swaps the forward pass."""
    ENGINE = 2
    """Owns the optimizer and the distribution."""


class Status(enum.StrEnum):
    """Whether a strategy ran the step."""

    PENDING = "pending"
    ENGAGED = "engaged"
    FELL_BACK = "fell_back"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class StrategyStatus:
    """Whether a strategy ran the step, and how that is known.

    Attributes:
        status: Pending before the first step, then engaged or fallen back.
        evidence: What was measured, by name. Never an intention.
        reason: Why it is not engaged.
    """

    status: Status
    evidence: Mapping[str, Any] = field(default_factory=dict)
    reason: str | None = None

    @classmethod
    def pending(cls, reason: str) -> StrategyStatus:
        """Nothing has run yet."""
        return cls(Status.PENDING, {}, reason)

    @classmethod
    def engaged(cls, evidence: Mapping[str, Any]) -> StrategyStatus:
        """The strategy ran the step."""
        return cls(Status.ENGAGED, dict(evidence))

    @classmethod
    def fell_back(cls, reason: str, evidence: Mapping[str, Any] | None = None) -> StrategyStatus:
        """Something else ran the step."""
        return cls(Status.FELL_BACK, dict(evidence or {}), reason)


@dataclass(frozen=True)
class TrainingContext:
    """What a strategy may look at before training starts.

    Attributes:
        precision: `fp32`, `bf16` or `fp16`.
        device: Type of the device: `cpu` or `cuda`.
        world_size: Number of processes.
        args: The training arguments; None in a plain Accelerate script.
        model: The model; None when `Trainer` makes it later from `model_init`.
    """

    precision: str
    device: str
    world_size: int = 1
    args: TrainingArguments | None = None
    model: nn.Module | None = None


class AcceleratorStrategy(ABC):
    """One way to make a training step faster or smaller.

    A subclass overrides what it needs. The order of calls is `problems`, `configure`,
    `wrap_model`, `prepared`, then steps, `status` at any time, and `close`.

    Attributes:
        name: Registered name.
        layer: Where it sits around the model.
        description: One line for lists.
        requires: Packages without which it cannot run.
        conflicts: Names of strategies that it cannot be combined with, and the reason for each.
        checkpoint_format: Checkpoints resume under strategies with the same format.
    """

    name: ClassVar[str]
    layer: ClassVar[Layer]
    description: ClassVar[str] = ""
    requires: ClassVar[tuple[Requirement, ...]] = ()
    conflicts: ClassVar[Mapping[str, str]] = {}
    checkpoint_format: str = "torch"

    @property
    def label(self) -> str:
        """The name that the user gave, for messages and reports."""
        return getattr(self, "_label", None) or self.name

    @label.setter
    def label(self, value: str) -> None:
        self._label = value

    def options(self) -> dict[str, Any]:
        """The options that it was built with, as plain data for the report."""
        return {}

    @abstractmethod
    def precisions(self, device: str) -> tuple[str, ...]:
        """The precisions that it trains in on a device type."""

    def problems(self, context: TrainingContext) -> list[Problem]:
        """Everything that stands in the way of training with it; never raises.

        Args:
            context: What is known before training.

        Returns:
            The problems, empty when it can start.
        """
        found = [r.problem(self.label) for r in self.requires if not r.installed()]
        supported = self.precisions(context.device)
        if context.precision not in supported:
            found.append(
                Problem(
                    f"strategy {self.label!r} does not train in {context.precision} on "
                    f"{context.device}",
                    f"precision={context.precision!r}, or bf16/fp16 in TrainingArguments",
                    f"use precision={_choices(supported)} here, or precision='auto'",
                )
            )
        if context.model is not None and context.precision == "fp32":
            half = next((n for n, p in context.model.named_parameters() if _is_half(p)), None)
            if half is not None:
                found.append(
                    Problem(
                        "the model's weights are in half precision, and fp32 is asked for",
                        f"{type(context.model).__name__}.{half}",
                        "load it with from_pretrained(..., dtype=torch.float32), or call "
                        "model.float()",
                    )
                )
        # What transformers says of a model that was loaded with `tp_plan=`.
        divided = getattr(context.model, "tp_size", None) or 1
        if divided > 1:
            found.append(
                Problem(
                    f"the model is divided over {divided} processes by tensor parallelism, which "
                    "no strategy trains",
                    f"{type(context.model).__name__}.tp_size={divided}",
                    "load it without tp_plan, or use transformers.Trainer",
                )
            )
        return found

    def configure(self, args: TrainingArguments) -> None:  # noqa: B027  a hook: most strategies need none
        """Changes training arguments before `Trainer` builds its accelerator."""

    def accelerator_kwargs(self, context: TrainingContext) -> dict[str, Any]:
        """Keyword arguments for an `accelerate.Accelerator` in a script without a Trainer."""
        return {}

    def wrap_model(self, model: nn.Module) -> nn.Module:
        """Puts the strategy around a model that is prepared for training.

        Args:
            model: The plain model.

        Returns:
            The model to train. It may be the same object.
        """
        return model

    def unwrap_model(self, model: nn.Module) -> nn.Module:
        """Sees through what `wrap_model` put around the model."""
        return model

    def prepared(self, accelerator: Any, model: nn.Module) -> None:  # noqa: B027  a hook: most strategies need none
        """Takes note of what `accelerator.prepare` made of the model (DDP, an engine, ...)."""

    def clips_to(self) -> float | None:
        """The gradient norm to which the engine itself clips; None where the script does."""
        return None

    @abstractmethod
    def status(self) -> StrategyStatus:
        """Whether it ran the step; local to this process, and cheap."""

    def close(self) -> None:  # noqa: B027  a hook: most strategies need none
        """Undoes everything and frees what it held; `status` still answers afterwards."""


def _is_half(parameter: Any) -> bool:
    return bool(parameter.is_floating_point() and parameter.element_size() < 4)


def _choices(names: Iterable[str]) -> str:
    return " or ".join(repr(n) for n in names) or "another device"
