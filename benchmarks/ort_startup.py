"""The first and the second start of GPT-2 124M under `ort`: seconds to export and build the graph.

Each start is a process of its own, with random weights. The first of a round finds an empty cache,
the second what the first left there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from output import keep

from acpt_trainer.measure.machine import cpu

_LOAD = round(os.getloadavg()[0], 2)
"""More than a few tenths: other processes share the cores, and seconds are longer than they are."""


def start(folder: str, rows: int, columns: int) -> dict[str, Any]:
    """Makes one step in this process, and tells what the start of it took."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from acpt_trainer import get_strategy

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).train()
    strategy = get_strategy("ort").build(cache=folder)
    ids = torch.randint(0, model.config.vocab_size, (rows, columns))
    began = time.perf_counter()
    strategy.wrap_model(model)
    loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss
    forward = time.perf_counter() - began
    loss.backward()
    evidence = strategy.status().evidence
    strategy.close()
    return {
        "cache": evidence["cache"],
        "export_seconds": evidence["export_seconds"],
        "build_seconds": evidence["build_seconds"],
        "first_forward_seconds": round(forward, 3),
        "loss": loss.item(),
        "threads": torch.get_num_threads(),
    }


def started(folder: str, args: argparse.Namespace) -> dict[str, Any]:
    """The same in a fresh process."""
    command = [sys.executable, __file__, "--start", folder]
    command += ["--rows", str(args.rows), "--columns", str(args.columns)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def seconds(result: dict[str, Any]) -> float:
    """Export and build together."""
    return float(result["export_seconds"] + result["build_seconds"])


def machine(threads: int) -> dict[str, Any]:
    """CPU and cores."""
    return {
        "cpu": cpu()["model"],
        "cores": os.cpu_count(),
        "threads": threads,
        "load_before": _LOAD,
    }


def main() -> None:
    """Runs the rounds and prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--columns", type=int, default=256)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--start", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.start:
        print(json.dumps(start(args.start, args.rows, args.columns)))
        return
    rounds = []
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as folder:
            rounds.append((started(folder, args), started(folder, args)))
    for first, second in rounds:
        assert (first["cache"], second["cache"]) == ("miss", "hit"), (first, second)
        assert first["loss"] == second["loss"], (first, second)
    ratios = [seconds(second) / seconds(first) for first, second in rounds]
    names = ("python", "torch", "transformers", "onnx", "onnxruntime-training-cpu")
    result = {
        "what": "export and build seconds of GPT-2 124M, second start over first, median of rounds",
        "ratio": round(statistics.median(ratios), 4),
        "ratio_per_round": [round(ratio, 4) for ratio in ratios],
        "first_seconds": round(statistics.median(seconds(first) for first, _ in rounds), 2),
        "second_seconds": round(statistics.median(seconds(second) for _, second in rounds), 2),
        "rounds": [{"first": first, "second": second} for first, second in rounds],
        "machine": machine(rounds[0][0]["threads"]),
        "versions": {
            name: platform.python_version() if name == "python" else version(name) for name in names
        },
        "options": {"rows": args.rows, "columns": args.columns},
    }
    keep(result, args.output)


if __name__ == "__main__":
    main()
