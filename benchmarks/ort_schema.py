"""What it costs `ort` at each step to see that the model is what its graph was made for.

Timed are a quick look that finds nothing changed, which each step takes, and the description of
every submodule that it stands for. Both take turns, and are set against a step of the same model.
The figures are the fastest of each: a millisecond is easily interrupted.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from output import keep
from transformers import GPT2Config, GPT2LMHeadModel

from acpt_trainer.measure.machine import machine
from acpt_trainer.ort.forward import attach
from acpt_trainer.ort.schema import ModelSchema


def milliseconds(action: Callable[[], Any]) -> float:
    """What an action takes."""
    started = time.perf_counter()
    action()
    return 1e3 * (time.perf_counter() - started)


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200, help="turns of each (default: 200)")
    parser.add_argument("--steps", type=int, default=5, help="steps of the model (default: 5)")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config())
    ids = torch.randint(0, 50257, (2, 256))
    forward = attach(model)

    def step() -> None:
        model(input_ids=ids, labels=ids).loss.backward()
        model.zero_grad()

    step()  # exports and builds
    steps = [milliseconds(step) for _ in range(args.steps)]
    assert len(forward.graphs) == 1
    held = ModelSchema(model)
    looks, descriptions = [], []
    for _ in range(args.rounds):
        descriptions.append(milliseconds(ModelSchema(model).now))
        held.now()
        looks.append(milliseconds(held.now))
    look, description, a_step = min(looks), min(descriptions), min(steps)
    result = {
        "what": "GPT-2 124M, batch 2 x 256: milliseconds to see that nothing changed, the fastest",
        "quick_look_ms": round(look, 3),
        "description_ms": round(description, 3),
        "step_ms": round(a_step, 1),
        "quick_look_over_step": round(look / a_step, 6),
        "quick_look_over_description": round(look / description, 4),
        "machine": machine(),
        "options": {"rounds": args.rounds, "steps": args.steps},
    }
    keep(result, args.output)


if __name__ == "__main__":
    main()
