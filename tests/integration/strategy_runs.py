"""Real training runs, each strategy and number of processes in processes of its own, made once."""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from warm_python import WarmPython

WORKER = Path(__file__).with_name("worker.py")
STRATEGIES = ("no_acc", "ort", "ds", "ds_ort")
FEWER: dict[tuple[str, int], tuple[str, ...]] = {
    ("ddp", 2): ("plain", "resumed"),
    ("fsdp", 2): ("plain", "resumed", "smoothed", "evaluated_first", "bf16"),
    ("compile", 1): ("plain", "resumed", "smoothed", "dropout", "dropout_resumed"),
    ("ds_compile", 1): ("plain",),
}
"""Strategies and processes that train fewer scenarios, as far as they differ from the four."""


@cache
def _warm_python() -> WarmPython:
    return WarmPython(_environment())


def _environment() -> dict[str, str]:
    launcher = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    kept = {name: value for name, value in os.environ.items() if name not in launcher}
    return {**kept, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def launch(
    command: list[str], processes: int = 1, timeout: int = 400
) -> subprocess.CompletedProcess[str]:
    """Runs a Python command line in a process of its own, or in several as torchrun does."""
    return _warm_python()(command, env=_environment(), processes=processes, timeout=timeout)


class Runs:
    """Trains scenarios on demand and keeps the results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.all = cache(self._all)

    def output(self, strategy: str, processes: int, scenario: str) -> Path:
        return self.folder / f"{strategy}_{processes}" / scenario

    def _scenarios(self, strategy: str, processes: int) -> dict[str, dict[str, Any]]:
        def out(name: str) -> str:
            return str(self.output(strategy, processes, name))

        dropout = {"dropout": 0.1, "steps": 8, "save_steps": 4}
        made: dict[str, dict[str, Any]] = {
            "plain": {"save_steps": 10, "save": True},
            "resumed": {"save_steps": 100, "resume_from": f"{out('plain')}/checkpoint-10"},
            "smoothed": {"label_smoothing": 0.1},
            "accumulated": {"batch": processes, "accumulation": 8 // processes},
            "dropout": dropout,
            "dropout_resumed": {**dropout, "resume_from": f"{out('dropout')}/checkpoint-4"},
            "eager_attention": {"attention": "eager", "steps": 5},
        }
        if processes > 1:
            made["evaluated_first"] = {"evaluate_first": True, "steps": 5}
        if strategy == "fsdp":
            made["bf16"] = {"bf16": True, "steps": 2}
        if processes == 1 and "ort" not in strategy:
            made["bf16"] = {"bf16": True, "steps": 5}
        chosen = FEWER.get((strategy, processes), tuple(made))
        return {name: {**made[name], "output_dir": out(name)} for name in chosen}

    def train(
        self, strategy: str, processes: int, scenarios: dict[str, dict[str, Any]], tag: str
    ) -> dict[str, Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        asked = self.folder / f"{tag}.json"
        answer = self.folder / f"{tag}.results.json"
        asked.write_text(json.dumps(scenarios))
        done = launch([str(WORKER), strategy, str(asked), str(answer)], processes)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
        return json.loads(answer.read_text())

    def _all(self, strategy: str, processes: int) -> dict[str, Any]:
        scenarios = self._scenarios(strategy, processes)
        return self.train(strategy, processes, scenarios, f"{strategy}_{processes}")
