"""Checkpoints of a run: which is the newest complete one, and which strategy can resume it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from acpt_trainer.errors import Problem
from acpt_trainer.report import read_report
from acpt_trainer.strategies.base import AcceleratorStrategy


def last_checkpoint(output_dir: str | os.PathLike[str]) -> str | None:
    """The newest complete checkpoint of a run.

    A run that was killed while saving leaves a folder without `trainer_state.json`, which is
    written last.

    Args:
        output_dir: The run's output folder.

    Returns:
        Its path, or None.
    """
    complete = [
        (int(named[1]), path)
        for path in Path(output_dir).glob("checkpoint-*")
        if (named := re.fullmatch("checkpoint-([0-9]+)", path.name))
        and (path / "trainer_state.json").is_file()
    ]
    return os.fspath(max(complete)[1]) if complete else None


_FILES = {"deepspeed": "latest", "fsdp": "pytorch_model_fsdp.bin"}
"""What an engine writes into its checkpoints and nobody else does."""


def checkpoint_problems(
    checkpoint: str | os.PathLike[str], strategy: AcceleratorStrategy, world_size: int
) -> list[Problem]:
    """Why a checkpoint cannot be resumed under a strategy.

    The model loads under every strategy; the optimizer's state does not: `Trainer` would start
    with an empty one and say nothing.

    Args:
        checkpoint: The checkpoint's folder.
        strategy: The strategy that is to resume it.
        world_size: Number of processes.

    Returns:
        The problems, empty when it can be resumed.
    """
    folder = Path(checkpoint)
    if not (folder / "trainer_state.json").is_file():
        what = "is not a complete checkpoint: it has no trainer_state.json"
        if not folder.is_dir():
            what = "does not exist"
        return [Problem(f"the checkpoint {what}", str(folder), "name another checkpoint folder")]
    written = read_report(folder) or {}
    # Without a report the files tell.
    guess = next((f for f, name in _FILES.items() if (folder / name).is_file()), "torch")
    format_ = written.get("checkpoint_format", guess)
    who = written.get("strategy", {"deepspeed": "ds", "torch": "no_acc"}.get(format_, format_))
    start_anew = f"start anew from its weights: from_pretrained({str(folder)!r})"
    if format_ != strategy.checkpoint_format:
        return [
            Problem(
                f"the checkpoint's optimizer state was written by {who!r} in the {format_} format, "
                f"and {strategy.label!r} resumes the {strategy.checkpoint_format} format",
                str(folder),
                f"resume with strategy={who!r}, or {start_anew}",
            )
        ]
    kept = ("latest",) if format_ == "deepspeed" else ("optimizer.pt", "optimizer.bin")
    if not any((folder / name).exists() for name in kept):
        return [
            Problem(
                "the checkpoint holds no optimizer state (save_only_model?), and training would "
                "go on with an empty one",
                str(folder),
                start_anew,
            )
        ]
    ranks = written.get("world_size", world_size)
    if format_ == "deepspeed" and ranks != world_size:
        return [
            Problem(
                f"the checkpoint's optimizer state is split over {ranks} processes, and this run "
                f"has {world_size}",
                str(folder),
                f"resume with {ranks} processes, or {start_anew}",
            )
        ]
    return []


def steps_done(checkpoint: str | os.PathLike[str]) -> int:
    """How many optimizer steps a complete checkpoint has behind it."""
    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
    return int(state["global_step"])
