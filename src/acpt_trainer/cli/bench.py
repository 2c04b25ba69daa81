"""`acpt-trainer bench`: how fast strategies train a model on this machine, and what they cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

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
    folder_problems,
    import_strategies,
    launcher_problems,
)
from acpt_trainer.errors import ConfigurationError, Problem, raise_if_any
from acpt_trainer.measure.bench import run
from acpt_trainer.measure.entry import PRECISIONS, BenchRequest, Entry, parse_entries
from acpt_trainer.measure.figures import figures
from acpt_trainer.measure.plots import MATPLOTLIB, write_pictures
from acpt_trainer.measure.results import markdown, write_results
from acpt_trainer.measure.store import Store
from acpt_trainer.registry import get_strategy


def bench_strategies(
    model: Model,
    strategies: Annotated[
        str,
        typer.Option(
            "--strategies",
            help="Names with commas between them; the others are compared with the first. "
            "name:bf16 and name:eager give one a precision or attention of its own.",
        ),
    ],
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Folder for the results.")],
    batch_size: BatchSize = 8,
    block_size: BlockSize = 128,
    precision: Annotated[
        str, typer.Option("--precision", help="auto, fp32, bf16 or fp16.")
    ] = "fp32",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Measured steps of each.")] = 20,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Turns of each.")] = 5,
    warmup_steps: Annotated[
        int, typer.Option("--warmup_steps", min=0, help="Steps after the first, not measured.")
    ] = 3,
    nproc: Processes = 1,
    lengths: Annotated[
        int, typer.Option("--lengths", min=1, help="Lengths of rows, from half of --block_size up.")
    ] = 1,
    attention: Attention = None,
    learning_rate: Annotated[float, typer.Option("--learning_rate", min=0, help="AdamW's.")] = 5e-5,
    seed: Seed = 0,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, help="Seconds for a turn, or for a start.")
    ] = 1800,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no_pictures", help="Draw speed-up, loss and memory.")
    ] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew whatever the folder holds.")
    ] = False,
    module: Import = None,
    as_json: Json = False,
) -> None:
    """Measure strategies on the same model, rows, seed and batch, each in a process of its own.

    They take turns, so that drift of the machine cancels. Writes results.json, results.md and
    pictures. The same command goes on where it was killed. A strategy that fails is a row.

    Examples:

    acpt-trainer bench --model gpt2 --strategies no_acc,ort,no_acc:bf16 --output_dir outputs/bench

    acpt-trainer bench --model config.json --strategies no_acc,ds,ds_ort --nproc 2 --output_dir out
    """
    import_strategies(module)
    entries, problems = parse_entries(strategies, precision, attention)
    problems += _problems(entries, precision, steps, rounds, output_dir)
    if pictures and not MATPLOTLIB.installed():
        fix = "pip install 'acpt-trainer[bench]', or give --no_pictures"
        problems.append(Problem("pictures need matplotlib", "--pictures", fix))
    raise_if_any(problems, "Cannot measure")
    request = BenchRequest(
        model, tuple(entries), batch_size, block_size, steps, rounds, warmup_steps, nproc, lengths,
        seed, learning_rate, (module,) if module else (),
    )  # fmt: skip
    store = Store(output_dir, request, overwrite)
    try:
        run(request, store, timeout, lambda line: typer.echo(line, err=True))
    except (KeyboardInterrupt, SystemExit) as ended:
        typer.echo("interrupted: the same command goes on from here", err=True)
        raise typer.Exit(int(getattr(ended, "code", None) or 130)) from None
    found = figures(store)
    files = write_results(found, output_dir)
    files += write_pictures(found, output_dir) if pictures else []
    typer.echo(f"written: {', '.join(map(str, files))}", err=True)
    typer.echo(json.dumps(found.to_dict(), indent=2) if as_json else "\n".join(markdown(found)))


def _problems(
    entries: list[Entry], precision: str, steps: int, rounds: int, folder: Path
) -> list[Problem]:
    found = launcher_problems()
    for name in dict.fromkeys(entry.strategy for entry in entries):
        try:
            get_strategy(name)
        except ConfigurationError as error:
            found += error.problems
    if precision not in PRECISIONS:
        found.append(
            Problem(
                f"there is no precision {precision!r}",
                f"--precision {precision}",
                f"give one of: {', '.join(PRECISIONS)}",
            )
        )
    if steps < rounds:
        found.append(
            Problem(
                f"{steps} steps cannot be shared among {rounds} rounds",
                f"--steps {steps} --rounds {rounds}",
                "give at least one step a round",
            )
        )
    return [*found, *folder_problems(folder)]
