"""What several commands share: options, and a standard output that holds the answer alone."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from acpt_trainer.errors import ConfigurationError, Problem
from acpt_trainer.launch import launched_processes

Model = Annotated[str, typer.Option("--model", help="Model folder, name on the hub, or config.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
BatchSize = Annotated[int, typer.Option("--batch_size", min=1, help="Rows of a step.")]
BlockSize = Annotated[int, typer.Option("--block_size", min=2, help="Tokens in a row.")]
Attention = Annotated[
    str | None, typer.Option("--attention", help="Attention: eager, sdpa; else the model's own.")
]
Processes = Annotated[int, typer.Option("--nproc", min=1, help="Processes of a strategy.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of weights, rows and dropout.")]
Import = Annotated[
    str | None, typer.Option("--import", help="Module that registers strategies of your own.")
]


def import_strategies(module: str | None) -> None:
    """Imports the module that registers a user's strategies.

    Raises:
        ConfigurationError: If it cannot be imported.
    """
    if module is None:
        return
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            [Problem(str(error), f"--import {module}", "name a module on PYTHONPATH")]
        ) from error


def launcher_problems() -> list[Problem]:
    """A problem if a launcher started several of this command, which starts its own processes."""
    if launched_processes() == 1:
        return []
    return [
        Problem(
            f"a launcher started {launched_processes()} of this command",
            f"WORLD_SIZE={os.environ.get('WORLD_SIZE')}",
            "start it once, without torchrun, and give --nproc",
        )
    ]


def folder_problems(folder: Path) -> list[Problem]:
    """Why files cannot be written into a folder, which need not be there yet."""
    where = f"--output_dir {folder}"
    there = next((p for p in (folder, *folder.absolute().parents) if p.exists()), folder)
    if not there.is_dir():
        return [Problem(f"{there} is a file", where, "name a folder")]
    if not os.access(there, os.W_OK | os.X_OK):
        return [Problem(f"{there} cannot be written to", where, "name another folder")]
    return []


@contextlib.contextmanager
def answer_alone() -> Iterator[None]:
    """Sends what libraries print meanwhile to standard error.

    DeepSpeed logs to standard output, and some of it from C: the descriptor itself is moved.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
