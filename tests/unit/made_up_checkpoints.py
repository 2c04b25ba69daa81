"""Checkpoints as far as their files tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

EAGER = {"strategy": "no_acc", "checkpoint_format": "torch", "world_size": 1}
ZERO = {"strategy": "ds", "checkpoint_format": "deepspeed", "world_size": 2}


def checkpoint(folder: Path, report: Any = None, *, latest: bool = False) -> Path:
    """A complete checkpoint, as far as its files tell."""
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text("{}")
    if report is not None:
        (folder / "strategy.json").write_text(json.dumps(report))
    if latest or (isinstance(report, dict) and report.get("checkpoint_format") == "deepspeed"):
        (folder / "latest").write_text("global_step3")
    else:
        (folder / "optimizer.pt").write_bytes(b"")
    return folder
