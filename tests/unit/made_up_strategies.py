"""Strategies that accelerate nothing and write down what was done with them."""

from __future__ import annotations

from typing import Any, ClassVar

from acpt_trainer.errors import Problem
from acpt_trainer.strategies.base import (
    AcceleratorStrategy,
    Layer,
    StrategyStatus,
    TrainingContext,
)


class MadeUpStrategy(AcceleratorStrategy):
    """Notes each call in `calls`, a list that several strategies may share."""

    name: ClassVar[str] = "made_up"
    layer: ClassVar[Layer] = Layer.MODULE
    description: ClassVar[str] = "for tests"

    def __init__(
        self,
        level: int = 0,
        *,
        said: StrategyStatus | None = None,
        trains_in: tuple[str, ...] = ("fp32",),
        found: tuple[Problem, ...] = (),
        kwargs: dict[str, Any] | None = None,
        calls: list[str] | None = None,
    ) -> None:
        self.level = level
        self.said = said or StrategyStatus.pending("nothing has run yet")
        self.trains_in = trains_in
        self.found = found
        self.kwargs = kwargs or {}
        self.calls: list[str] = [] if calls is None else calls

    def options(self) -> dict[str, Any]:
        return {"level": self.level}

    def precisions(self, device: str) -> tuple[str, ...]:
        return self.trains_in

    def problems(self, context: TrainingContext) -> list[Problem]:
        return [*super().problems(context), *self.found]

    def configure(self, args: Any) -> None:
        self.calls.append(f"configure {self.name}")

    def accelerator_kwargs(self, context: TrainingContext) -> dict[str, Any]:
        return self.kwargs

    def wrap_model(self, model: Any) -> Any:
        self.calls.append(f"wrap {self.name}")
        return Wrapped(model, self)

    def unwrap_model(self, model: Any) -> Any:
        mine = isinstance(model, Wrapped) and model.by is self
        if mine:
            self.calls.append(f"unwrap {self.name}")
        return model.inner if mine else model

    def prepared(self, accelerator: Any, model: Any) -> None:
        self.calls.append(f"prepared {self.name}")

    def status(self) -> StrategyStatus:
        return self.said

    def close(self) -> None:
        self.calls.append(f"close {self.name}")


class MadeUpEngine(MadeUpStrategy):
    """One that owns the optimizer and the distribution."""

    name: ClassVar[str] = "made_up_engine"
    layer: ClassVar[Layer] = Layer.ENGINE
    checkpoint_format = "made_up"


class Wrapped:
    """What a `MadeUpStrategy` puts around a model."""

    def __init__(self, inner: Any, by: MadeUpStrategy) -> None:
        self.inner = inner
        self.by = by
