"""Memory of a training step of a GPT-2 with and without recompute, each in a process of its own.

The figure is the rise of the peak of resident memory over the process's peak after a step on a tiny
batch, by when the model, its graph and its gradients are there: what is left are the activations.
The loss of the last step stands beside it: recompute must not change it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

STEPS = 4
CASES = (("no_acc", 0), ("no_acc", 1), ("ort", 0), ("ort", 1), ("ort", 2))


def measure(strategy: str, recompute: int, args: argparse.Namespace) -> dict[str, Any]:
    """Trains a few steps in this process."""
    warnings.filterwarnings("ignore")
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, logging

    from acpt_trainer.measure.memory import peak_memory_mb
    from acpt_trainer.ort.forward import attach

    logging.set_verbosity_error()
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=6, n_head=8, n_embd=256, vocab_size=512, n_positions=args.length,
        attn_pdrop=args.dropout, resid_pdrop=args.dropout, embd_pdrop=args.dropout,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).train()
    forward = attach(model, recompute=recompute) if strategy == "ort" else None
    if recompute and not forward:
        model.activation_checkpointing_enable()

    def step(rows: int, length: int) -> float:
        ids = torch.randint(0, 512, (rows, length), generator=torch.Generator().manual_seed(1))
        model.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        return float(loss)

    step(2, 8)
    base = peak_memory_mb()
    for _ in range(STEPS):
        loss = step(args.batch, args.length)
    result = {
        "strategy": strategy, "recompute": recompute, "loss": round(loss, 6),
        "activations_mb": round(peak_memory_mb() - base, 1),
    }  # fmt: skip
    if forward and recompute:
        found = next(iter(forward.graphs.values())).recompute
        result["recomputed_nodes"] = sum(found.operators.values()) if found else 0
    return result


def main() -> None:
    """Measures every case and writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args.case[0], int(args.case[1]), args)))
        return
    import torch

    from acpt_trainer.report import versions

    rows = []
    for strategy, recompute in CASES:
        command = [sys.executable, __file__, "--case", strategy, str(recompute)]
        for name in ("batch", "length", "dropout"):
            command += [f"--{name}", str(getattr(args, name))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    result = {
        "question": __doc__.splitlines()[0],
        "model": "GPT-2, 6 layers of 256 with 8 heads, sdpa attention, fp32",
        "batch": args.batch, "length": args.length, "dropout": args.dropout, "cases": rows,
        "threads": torch.get_num_threads(), "cores": os.cpu_count(),
        "machine": platform.machine(), "versions": versions(),
    }  # fmt: skip
    if args.output:
        args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
