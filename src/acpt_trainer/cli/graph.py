"""`acpt-trainer graph`: a model's training graph as files, without a training run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from acpt_trainer.cli.common import Json, answer_alone, folder_problems
from acpt_trainer.errors import Problem, raise_if_any
from acpt_trainer.registry import get_strategy

_HEADLINE = "Cannot write a graph"


def write_graph(
    model: Annotated[
        str, typer.Option("--model", help="Model folder, name on the hub, or config file.")
    ],
    output_dir: Annotated[Path, typer.Option("--output_dir", help="Folder for the files.")],
    batch_size: Annotated[int, typer.Option("--batch_size", help="Rows of the sample.")] = 2,
    block_size: Annotated[int, typer.Option("--block_size", help="Tokens in a row.")] = 32,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files of an earlier run.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write the graph that ONNX Runtime trains a model with, and what it holds.

    Runs one training step on a made-up batch; weights are not changed. A config file gives a model
    with random weights.

    Example: acpt-trainer graph --model config.json --output_dir graph
    """
    raise_if_any(
        [
            *_problems(output_dir, batch_size, block_size, overwrite),
            *get_strategy("ort").problems(),
        ],
        _HEADLINE,
    )
    import torch

    from acpt_trainer.measure.models import load_model, sample_batch
    from acpt_trainer.strategies.base import TrainingContext
    from acpt_trainer.strategies.ortmodule import OrtStrategy

    torch.manual_seed(0)
    loaded = load_model(model).train()
    batch = sample_batch(loaded, batch_size, block_size)
    strategy = OrtStrategy()
    raise_if_any(strategy.problems(TrainingContext("fp32", "cpu", model=loaded)), _HEADLINE)
    strategy.wrap_model(loaded)
    try:
        with answer_alone():
            loaded(**batch).loss.backward()
            found = strategy.write_graph(output_dir)
    finally:
        strategy.close()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    typer.echo(
        f"{found['model']}: {found['nodes']} nodes, forward {found['forward_nodes']}, backward "
        f"{found['backward_nodes']}; written to {output_dir}"
    )


def _problems(folder: Path, batch_size: int, block_size: int, overwrite: bool) -> list[Problem]:
    found = []
    for name, value, least in (("batch_size", batch_size, 1), ("block_size", block_size, 2)):
        if value < least:
            found.append(
                Problem(f"{name} is {value}", f"--{name}", f"give a number of at least {least}")
            )
    unwritable = folder_problems(folder)
    if not unwritable and not overwrite and any(folder.glob("training_graph.*")):
        fix = "name another folder, or --overwrite"
        found.append(Problem("there is a training graph already", f"--output_dir {folder}", fix))
    return [*found, *unwritable]
