"""`acpt-trainer verify`: whether a strategy computes what eager PyTorch computes."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from acpt_trainer.cli.common import (
    Attention,
    BatchSize,
    BlockSize,
    Import,
    Json,
    Model,
    Processes,
    Seed,
    answer_alone,
    import_strategies,
    launcher_problems,
)
from acpt_trainer.errors import ConfigurationError, Problem, raise_if_any
from acpt_trainer.registry import get_strategy

_COMPARED = ("fp32", "bf16")
DIFFERS_STATUS = 1
_PATIENCE = 3600.0


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
    nproc: Processes = 1,
    attention: Attention = None,
    seed: Seed = 0,
    module: Import = None,
    as_json: Json = False,
) -> None:
    """Compare real training steps under a strategy with the same steps in eager PyTorch.

    Loss, gradient of every parameter and what AdamW makes of it, without dropout; with dropout the
    distribution of the loss. Ends with status 1 and the first parameter that differs.

    Examples:

    acpt-trainer verify --model config.json --strategy ort --json

    acpt-trainer verify --model config.json --strategy ds --nproc 2
    """
    import_strategies(module)
    problems = launcher_problems()
    if precision not in _COMPARED:
        problems.append(
            Problem(
                f"{precision!r} is not compared",
                f"--precision {precision}",
                f"give one of: {', '.join(_COMPARED)}; fp16 scales the loss, and gradients with it",
            )
        )
    if strategy == "auto":
        fix = "give the strategy that auto would take, or each that it may take in turn"
        problems.append(Problem("auto takes one of the others", "--strategy auto", fix))
    if draws == 1:
        problems.append(Problem("one draw has no spread", "--draws 1", "draw 2 or more, or 0"))
    raise_if_any([*problems, *get_strategy(strategy).problems()], "Cannot compare")
    details = {
        "model": model, "strategy": strategy, "precision": precision, "steps": steps,
        "batch_size": batch_size, "block_size": block_size, "seed": seed, "draws": draws,
        "attention": attention, "nproc": nproc,
    }  # fmt: skip
    found = _alone(details) if nproc == 1 else _together(details, module)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        for line in _lines(found):
            typer.echo(line)
    if found["status"] != "holds":
        raise typer.Exit(DIFFERS_STATUS)


def _alone(details: dict[str, Any]) -> dict[str, Any]:
    """The verdict of this process."""
    from acpt_trainer.measure.parity import verify
    from acpt_trainer.measure.reference import Request

    with answer_alone():
        return verify(Request(**details), lambda line: typer.echo(line, err=True)).to_dict()


def _together(details: dict[str, Any], module: str | None) -> dict[str, Any]:
    """The verdict of several processes; all find the same, and the first one's is given."""
    from acpt_trainer.measure.crew import Worker, WorkerError

    job = {"kind": "verifies", "imports": [module] if module else [], "request": details}
    typer.echo(f"{details['nproc']} processes compare", err=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        worker = Worker(folder, job, details["nproc"], _PATIENCE)
        try:
            return worker.ask("verify")[0]
        except WorkerError as error:
            if error.status != "refused":
                typer.echo((folder / "log.txt").read_text(errors="replace")[-4000:], err=True)
            where = f"--strategy {details['strategy']} --nproc {details['nproc']}"
            fix = error.fix or "see the log above"
            raise ConfigurationError(
                [Problem(error.reason, where, fix)], "Cannot compare"
            ) from error
        finally:
            worker.close()


def _lines(found: dict[str, Any]) -> Iterator[str]:
    request, allowed = found["request"], found["tolerance"]
    processes = "" if request["nproc"] == 1 else f", {request['nproc']} processes"
    yield (
        f"{request['strategy']} in {request['precision']} against eager PyTorch in fp32, "
        f"{request['steps']} steps of {request['batch_size']} x {request['block_size']}{processes}"
    )
    yield (
        f"  tolerance   from a rounding of {allowed['unit_roundoff']:.1e} over {allowed['depth']} "
        f"layers and {allowed['terms']} terms"
    )
    loss = max(step["difference"] for step in found["losses"])
    yield f"  loss        {loss:.1e} (at most {allowed['loss']:.1e})"
    for title, kind in (("gradients", "gradient"), ("optimizer", "result")):
        name, values = found[f"worst_{kind}"], found[f"{kind}s"]
        worst = "none" if values[name] is None else f"{values[name]:.1e}"
        yield (
            f"  {title:<11} {worst} at worst of {len(values)}, {name} "
            f"(at most {allowed['gradient']:.1e})"
        )
    yield f"  dropout     {found['dropout']}"
    if found["status"] == "holds":
        yield "parity holds"
        return
    yield "parity does not hold"
    if found["first_differing_parameter"]:
        yield f"  first differing parameter: {found['first_differing_parameter']}"
    yield from (f"  {fault}" for fault in found["faults"])
