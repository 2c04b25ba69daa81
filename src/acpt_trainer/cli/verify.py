"""`acpt-trainer verify`: whether a strategy computes what eager PyTorch computes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from acpt_trainer.cli.common import (
    Attention,
    BatchSize,
    BlockSize,
    Import,
    Json,
    Model,
    Seed,
    answer_alone,
    import_strategies,
)
from acpt_trainer.errors import Problem, raise_if_any
from acpt_trainer.registry import get_strategy

if TYPE_CHECKING:
    from acpt_trainer.measure.parity import Verdict

_COMPARED = ("fp32", "bf16")
DIFFERS_STATUS = 1


def verify_strategy(
    model: Model,
    strategy: Annotated[str, typer.Option("--strategy", help="Name of the strategy, or a+b.")],
    precision: Annotated[str, typer.Option("--precision", help="fp32 or bf16.")] = "fp32",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimizer steps.")] = 5,
    batch_size: BatchSize = 2,
    block_size: BlockSize = 64,
    draws: Annotated[
        int, typer.Option("--draws", min=0, help="Losses drawn to compare dropout; 0: none.")
    ] = 24,
    attention: Attention = None,
    seed: Seed = 0,
    module: Import = None,
    as_json: Json = False,
) -> None:
    """Compare real training steps under a strategy with the same steps in eager PyTorch.

    Loss, gradient of every parameter and what AdamW makes of it, without dropout; with dropout the
    distribution of the loss. Ends with status 1 and the first parameter that differs.

    Example: acpt-trainer verify --model config.json --strategy ort --json
    """
    import_strategies(module)
    problems = []
    if precision not in _COMPARED:
        problems.append(
            Problem(
                f"{precision!r} is not compared",
                f"--precision {precision}",
                f"give one of: {', '.join(_COMPARED)}; fp16 scales the loss, and gradients with it",
            )
        )
    if draws == 1:
        problems.append(Problem("one draw has no spread", "--draws 1", "draw 2 or more, or 0"))
    raise_if_any([*problems, *get_strategy(strategy).problems()], "Cannot compare")
    from acpt_trainer.measure.parity import verify
    from acpt_trainer.measure.reference import Request

    request = Request(
        model, strategy, precision, steps, batch_size, block_size, seed, draws, attention
    )
    with answer_alone():
        verdict = verify(request, lambda line: typer.echo(line, err=True))
    if as_json:
        typer.echo(json.dumps(verdict.to_dict(), indent=2))
    else:
        for line in _lines(verdict):
            typer.echo(line)
    if not verdict.holds:
        raise typer.Exit(DIFFERS_STATUS)


def _lines(verdict: Verdict) -> Iterator[str]:
    from acpt_trainer.measure.parity import worst

    request, allowed = verdict.request, verdict.tolerance
    yield (
        f"{request.strategy} in {request.precision} against eager PyTorch in fp32, "
        f"{request.steps} steps of {request.batch_size} x {request.block_size}"
    )
    yield (
        f"  tolerance   from a rounding of {allowed.unit_roundoff:.1e} over {allowed.depth} "
        f"layers and {allowed.terms} terms"
    )
    yield f"  loss        {verdict.loss:.1e} (at most {allowed.loss:.1e})"
    for name, found in (("gradients", verdict.gradients), ("optimizer", verdict.results)):
        least = worst(found)
        value = found[least] if least else 0.0
        yield (
            f"  {name:<11} {value:.1e} at worst of {len(found)}, {least} "
            f"(at most {allowed.gradient:.1e})"
        )
    yield f"  dropout     {verdict.dropout}"
    if verdict.holds:
        yield "parity holds"
        return
    yield "parity does not hold"
    if verdict.first_differing_parameter:
        yield f"  first differing parameter: {verdict.first_differing_parameter}"
    yield from (f"  {fault}" for fault in verdict.faults)
