"""Questions and answers between processes, as files that appear whole.

Waiting costs a look at a folder now and then, and holds no collective open: several processes that
wait do not take the cores of the one that works.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_LOOKS_APART = 0.02


def write_json(path: Path, value: Any) -> None:
    """Writes a file whole or not at all."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    partial.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


def read_json(path: Path) -> Any:
    """Reads what `write_json` wrote; None where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def wait_for(path: Path, alive: Callable[[], bool], seconds: float = float("inf")) -> Any:
    """Waits until a file appears.

    Args:
        path: The file.
        alive: Whether there is still someone to write it.
        seconds: How long to wait.

    Returns:
        What it holds; None where nobody is left to write it.

    Raises:
        TimeoutError: If it does not appear in time.
    """
    until = time.monotonic() + seconds
    while True:
        lives = alive()
        found = read_json(path)
        if found is not None or not lives:
            return found
        if time.monotonic() > until:
            raise TimeoutError(path.name)
        time.sleep(_LOOKS_APART)


def question(folder: Path, number: int) -> Path:
    """Where a question is asked."""
    return folder / f"ask-{number}.json"


def answer(folder: Path, number: int, rank: int) -> Path:
    """Where a process answers it."""
    return folder / f"answer-{number}-{rank}.json"
