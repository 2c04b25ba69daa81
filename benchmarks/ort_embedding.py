"""Embedding as `Gather` against embedding through ATen, in a training step with `ort`.

ORTModule exports an embedding as an `ATen` node, which needs a C++ extension; here it is `Gather`.
Both graphs train the same weights, step by step in turn in one process.

Usage: ort_embedding.py --output results/ort_embedding.json [--steps 20]
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from output import keep
from transformers import GPT2Config, GPT2LMHeadModel

from acpt_trainer.measure.machine import cpu
from acpt_trainer.ort import extensions, patches, registration
from acpt_trainer.ort.forward import attach


def gpt2() -> GPT2LMHeadModel:
    """A GPT-2 of two layers with the whole vocabulary."""
    config = GPT2Config(
        n_layer=2, n_head=4, n_embd=256, vocab_size=50257, n_positions=128,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    return GPT2LMHeadModel(config).train()


def through_aten(symbolics: Any) -> Any:
    """The symbolics, with ORTModule's own embedding."""

    def chosen(upstream: dict[str, Any]) -> dict[str, Any]:
        extensions.require("aten_op_executor", operator="aten::embedding")
        return {**symbolics(upstream), "::embedding": upstream["::embedding"]}

    return chosen


def step(model: GPT2LMHeadModel, ids: torch.Tensor) -> float:
    """Seconds of a forward and a backward pass."""
    model.zero_grad(set_to_none=True)
    started = time.perf_counter()
    model(input_ids=ids, labels=ids).loss.backward()
    return time.perf_counter() - started


def largest_difference(a: GPT2LMHeadModel, b: GPT2LMHeadModel) -> float:
    """Between gradients, relative to those of the second model."""
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return max(((p.grad - q.grad).norm() / q.grad.norm()).item() for p, q in pairs)


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()

    ids = torch.randint(0, 50257, (2, 128), generator=torch.Generator().manual_seed(0))
    plain = gpt2()
    models = {"gather": copy.deepcopy(plain), "aten": copy.deepcopy(plain)}
    patches.start()
    graphs = {}
    for name, model in models.items():
        if name == "aten":
            registration._symbolics = through_aten(registration._symbolics)
        forward = attach(model)
        step(model, ids)
        (graph,) = forward.graphs.values()
        graphs[name] = graph.summary.aten_ops
    step(plain, ids)
    differences = {name: largest_difference(m, plain) for name, m in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(args.steps):
        order = list(models) if turn % 2 else list(reversed(models))
        for name in order:
            seconds[name].append(step(models[name], ids))
    medians = {name: statistics.median(s) for name, s in seconds.items()}
    result = {
        "aten_ops": graphs,
        "gradient_difference_from_pytorch": differences,
        "median_seconds": {k: round(v, 4) for k, v in medians.items()},
        "aten_over_gather": round(medians["aten"] / medians["gather"], 3),
        "model": "GPT-2, 2 layers, 256 wide, vocabulary 50257, batch 2 x 128, fp32, no dropout",
        "steps": args.steps,
        "machine": f"{torch.get_num_threads()} threads, CPU: {cpu()['model']}",
        "python": platform.python_version(),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("torch", "transformers", "onnxruntime-training-cpu")
        },
    }
    keep(result, args.output)


if __name__ == "__main__":
    main()
