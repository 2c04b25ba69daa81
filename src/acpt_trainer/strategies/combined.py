"""Several strategies as one, put around the model in the order of their layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from acpt_trainer.errors import IncompatibleStrategiesError, Problem
from acpt_trainer.strategies.base import (
    AcceleratorStrategy,
    Layer,
    Status,
    StrategyStatus,
    TrainingContext,
)

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainingArguments


def conflicts(named: Sequence[tuple[str, type[AcceleratorStrategy]]]) -> list[tuple[str, str]]:
    """Why strategies cannot be combined.

    Args:
        named: Names and classes.

    Returns:
        Pairs of what is wrong and what to do; empty when they can be combined.
    """
    found = []
    for i, (a, first) in enumerate(named):
        for b, second in named[i + 1 :]:
            pair = f"{a!r} and {b!r}"
            if a == b:
                found.append((f"{a!r} is given twice", f"give {a!r} once"))
                continue
            # By the class's own name too: another preset of it conflicts as well.
            names = [(first, b), (first, second.name), (second, a), (second, first.name)]
            names += [(first, "*"), (second, "*")]
            reason = next((c.conflicts[n] for c, n in names if n in c.conflicts), None)
            if reason is None and first.layer == second.layer:
                reason = (
                    "both swap the model's forward pass"
                    if first.layer is Layer.MODULE
                    else "both own the optimizer and the distribution"
                )
            if reason is not None:
                found.append((f"{pair} cannot be combined: {reason}", f"choose {a!r} or {b!r}"))
    return found


class CombinedStrategy(AcceleratorStrategy):
    """Several strategies as one.

    Args:
        parts: Registered names or strategies, in any order.
        **options: Options of a part by its name, such as `ort={"max_graphs": 4}`.
    """

    name: ClassVar[str] = "combined"
    layer: ClassVar[Layer] = Layer.ENGINE
    description: ClassVar[str] = "several strategies as one"
    conflicts: ClassVar[dict[str, str]] = {"*": "one of them is a combination already"}

    def __init__(self, parts: Sequence[str | AcceleratorStrategy], **options: Any) -> None:
        from acpt_trainer.registry import get_strategy

        unknown = set(options) - {p for p in parts if isinstance(p, str)}
        if unknown:
            raise TypeError(f"unexpected keyword argument {sorted(unknown)[0]!r}")
        built = [
            get_strategy(p).build(**options.get(p, {})) if isinstance(p, str) else p for p in parts
        ]
        found = conflicts([(p.label, type(p)) for p in built])
        if found:
            raise IncompatibleStrategiesError(
                [Problem(what, f"parts={list(parts)}", fix) for what, fix in found],
                "Cannot combine strategies",
            )
        #: Inside first: the order in which they are put around the model.
        self.parts = sorted(built, key=lambda s: s.layer)
        self.requires = tuple(r for p in self.parts for r in p.requires)  # type: ignore[misc]

    @property
    def checkpoint_format(self) -> str:  # type: ignore[override]
        """The format of the outermost part, which owns the optimizer."""
        return self.parts[-1].checkpoint_format

    def options(self) -> dict[str, Any]:
        """The parts' options, by name."""
        return {part.label: part.options() for part in self.parts}

    def precisions(self, device: str) -> tuple[str, ...]:
        """What every part trains in, in the order of the outermost's preference."""
        first, *others = reversed([p.precisions(device) for p in self.parts])
        return tuple(p for p in first if all(p in o for o in others))

    def problems(self, context: TrainingContext) -> list[Problem]:
        """The problems of every part, each once."""
        found: list[Problem] = []
        for part in self.parts:
            found += [p for p in part.problems(context) if p not in found]
        return found

    def configure(self, args: TrainingArguments) -> None:
        """Lets every part change the arguments."""
        for part in self.parts:
            part.configure(args)

    def accelerator_kwargs(self, context: TrainingContext) -> dict[str, Any]:
        """The keyword arguments of every part."""
        kwargs: dict[str, Any] = {}
        for part in self.parts:
            kwargs |= part.accelerator_kwargs(context)
        return kwargs

    def wrap_model(self, model: nn.Module) -> nn.Module:
        """Puts the parts around the model, inside first."""
        for part in self.parts:
            model = part.wrap_model(model)
        return model

    def unwrap_model(self, model: nn.Module) -> nn.Module:
        """Sees through the parts, outside first."""
        for part in reversed(self.parts):
            model = part.unwrap_model(model)
        return model

    def prepared(self, accelerator: Any, model: nn.Module) -> None:
        """Tells every part."""
        for part in self.parts:
            part.prepared(accelerator, model)

    def clips_to(self) -> float | None:
        """What the engine among the parts clips to."""
        return next((c for p in self.parts if (c := p.clips_to()) is not None), None)

    def status(self) -> StrategyStatus:
        """Engaged when every part is; the evidence is by part."""
        statuses = {part.label: part.status() for part in self.parts}
        evidence = {name: dict(s.evidence) for name, s in statuses.items()}
        for wanted in (Status.FELL_BACK, Status.PENDING):
            reasons = [f"{n}: {s.reason}" for n, s in statuses.items() if s.status is wanted]
            if reasons:
                return StrategyStatus(wanted, evidence, "; ".join(reasons))
        return StrategyStatus.engaged(evidence)

    def close(self) -> None:
        """Closes the parts, outside first."""
        for part in reversed(self.parts):
            part.close()
