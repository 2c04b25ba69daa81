"""Parity: real training steps under a strategy against the same steps in eager PyTorch."""

from __future__ import annotations

import math
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from acpt_trainer.measure.compare import differences, distribution_fault, relative, rms
from acpt_trainer.measure.reference import Reference, Request, Say, batches
from acpt_trainer.measure.session import Session
from acpt_trainer.measure.tensors import Gradients, Tensors, weights
from acpt_trainer.measure.tolerance import Tolerance


@dataclass
class Verdict:
    """What was found.

    Attributes:
        request: What was compared.
        tolerance: What was allowed.
        losses: By step: eager PyTorch's and the strategy's.
        gradients: By parameter, the largest relative difference of a step.
        results: By parameter, the same of how far the optimizer has moved it.
        first_differing_parameter: The first whose gradient or result differs.
        faults: What is out of tolerance, in words; empty when parity holds.
        dropout: How dropout compares, in words.
        report: The strategy's report.
    """

    request: Request
    tolerance: Tolerance
    losses: list[tuple[float, float]] = field(default_factory=list)
    gradients: dict[str, float] = field(default_factory=dict)
    results: dict[str, float] = field(default_factory=dict)
    first_differing_parameter: str | None = None
    faults: list[str] = field(default_factory=list)
    dropout: str = "not compared"
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether parity holds."""
        return not self.faults

    @property
    def loss(self) -> float:
        """The largest relative difference of a loss."""
        return max((relative(ours, theirs) for theirs, ours in self.losses), default=0.0)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; an infinite difference (one side has no such tensor) is None."""

        def finite(values: dict[str, float]) -> dict[str, float | None]:
            return {n: v if math.isfinite(v) else None for n, v in values.items()}

        return {
            "status": "holds" if self.holds else "differs",
            "first_differing_parameter": self.first_differing_parameter,
            "faults": self.faults,
            "request": asdict(self.request),
            "tolerance": asdict(self.tolerance),
            "losses": [
                {"step": i, "eager": a, "strategy": b, "difference": relative(b, a)}
                for i, (a, b) in enumerate(self.losses, start=1)
            ],
            "worst_gradient": worst(self.gradients),
            "worst_result": worst(self.results),
            "gradients": finite(self.gradients),
            "results": finite(self.results),
            "dropout": self.dropout,
            "report": self.report,
        }


def worst(values: dict[str, float]) -> str | None:
    """The name of the largest."""
    return max(values, key=lambda n: values[n]) if values else None


def verify(request: Request, say: Say = lambda line: None) -> Verdict:
    """Compares a strategy with eager PyTorch.

    Eager PyTorch trains first, before anything of the strategy is imported, so that nothing that
    the strategy changes can reach it.

    Args:
        request: What to compare.
        say: Told what is being done.

    Raises:
        ConfigurationError: If the model or the strategy cannot train as asked.
    """
    with tempfile.TemporaryDirectory() as folder:
        eager = Reference(request, Path(folder), say)
        verdict = Verdict(request, eager.tolerance)
        _compare_steps(request, eager, verdict, say)
        if request.draws:
            _compare_dropout(request, eager, verdict, say)
    return verdict


def _compare_steps(request: Request, eager: Reference, verdict: Verdict, say: Say) -> None:
    model = request.build(dropout=False)
    session = Session(
        model, request.strategy, request.precision, request.rows(model), request.batch_size,
        eager.optimizer,
    )  # fmt: skip
    taken = Gradients(session.plain)
    for number, expected in enumerate(eager.losses):
        loss = float(session.mean(session.step(taken.complete).loss))
        taken.average(session.mean)
        verdict.losses.append((expected, loss))
        if not relative(loss, expected) <= verdict.tolerance.loss:
            verdict.faults.append(
                f"step {number + 1}: the loss is {loss:.7g}, and {expected:.7g} in PyTorch"
            )
        gradients, after = eager.step(number)
        apart = differences(taken.values, gradients)
        _note(verdict, verdict.gradients, apart, f"step {number + 1}: the gradient of")
        apart = _moves_apart(eager, weights(session.plain), after)
        _note(verdict, verdict.results, apart, f"step {number + 1}: the optimizer's result for")
        taken.values.clear()
        say(
            f"{request.strategy}, step {number + 1} of {request.steps}: loss {loss:.6f}, gradients "
            f"within {_shown(max(verdict.gradients.values()))}"
        )
    verdict.report = session.report().to_dict()
    session.close()


def _note(verdict: Verdict, largest: dict[str, float], apart: dict[str, float], what: str) -> None:
    """Keeps the largest differences, and names the first parameter that is out of tolerance."""
    for name, value in apart.items():
        largest[name] = max(largest.get(name, 0.0), value)
        if not value <= verdict.tolerance.gradient and verdict.first_differing_parameter is None:
            verdict.first_differing_parameter = name
            verdict.faults.append(f"{what} {name} differs by {_shown(value)}")


def _moves_apart(eager: Reference, ours: Tensors, theirs: Tensors) -> dict[str, float]:
    """Differences in how far the optimizer has moved each parameter."""
    allowed = eager.tolerance

    def moves(after: Tensors) -> Tensors:
        found: Tensors = {}
        for name, start in eager.start.items():
            end = after.get(name)
            found[name] = None if start is None or end is None else end - start
        return found

    # A parameter is stored in the precision too: a move below its rounding cannot be told.
    least = {
        n: allowed.unit_roundoff * rms(t) / allowed.gradient
        for n, t in eager.start.items()
        if t is not None
    }
    return differences(moves(ours), moves(theirs), least)


def _compare_dropout(request: Request, eager: Reference, verdict: Verdict, say: Say) -> None:
    model = request.build(dropout=True)
    session = Session(
        model, request.strategy, request.precision, request.rows(model), request.batch_size,
        eager.optimizer,
    )  # fmt: skip
    say(f"{request.strategy}, dropout: {request.draws} draws")
    batch = next(batches(request, session.plain, request.batch_size))
    drawn = [float(session.model(**batch).loss.detach()) for _ in range(request.draws)]
    session.step()
    session.step()  # a strategy that did not run the first says so here
    session.close()
    fault = distribution_fault(drawn, eager.drawn, verdict.tolerance.loss)
    if fault is not None:
        verdict.faults.append(f"with dropout, {fault}")
    elif len(set(eager.drawn)) == 1:
        verdict.dropout = "the model has none"
        return
    verdict.dropout = fault or "the same distribution of losses"


def _shown(apart: float) -> str:
    return f"{apart:.1e}" if math.isfinite(apart) else "everything: only one of the two has it"
