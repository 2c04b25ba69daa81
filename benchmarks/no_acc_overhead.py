"""How much longer a step of `no_acc` takes than the bare Trainer's, in turn in one process.

The two take turns, so that drift of the machine cancels, and train the same model on the same data
with the same seed. The figure is the ratio of the median step times.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from output import keep
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from acpt_trainer import AcceleratedTrainer
from acpt_trainer.measure.machine import machine


class _Clock(TrainerCallback):
    """Seconds from the end of one step to the end of the next."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._last: float | None = None

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        if self._last is not None:
            self.seconds.append(now - self._last)
        self._last = now


class _Tokens(torch.utils.data.Dataset):
    def __init__(self, length: int, vocabulary: int) -> None:
        self.ids = torch.randint(
            0, vocabulary, (512, length), generator=torch.Generator().manual_seed(0)
        )

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[i], "labels": self.ids[i]}


def train(accelerated: bool, args: argparse.Namespace) -> list[float]:
    """Trains once and returns the step times without the first ones."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=4, n_head=4, n_embd=256, vocab_size=8192, n_positions=128, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    clock = _Clock()
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {
            "model": GPT2LMHeadModel(config),
            "args": TrainingArguments(
                output_dir=folder, max_steps=args.steps + 5, report_to=[], disable_tqdm=True,
                per_device_train_batch_size=4, save_strategy="no", logging_strategy="no",
            ),
            "train_dataset": _Tokens(64, 8192),
            "callbacks": [clock],
        }  # fmt: skip
        if accelerated:
            AcceleratedTrainer(**options, strategy="no_acc").train()
        else:
            Trainer(**options).train()
    return clock.seconds[4:]


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=8, help="turns of each (default: 8)")
    parser.add_argument("--steps", type=int, default=25, help="steps a turn (default: 25)")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    times: dict[bool, list[float]] = {False: [], True: []}
    ratios = []
    for accelerated in (False, True):
        train(accelerated, args)  # the first turn in a process loads code and memory
    for round_ in range(args.rounds):
        # The first of a pair warms caches for the second: they swap.
        for accelerated in (False, True) if round_ % 2 == 0 else (True, False):
            times[accelerated].append(statistics.median(train(accelerated, args)))
        ratios.append(times[True][-1] / times[False][-1])
        print(f"round {round_ + 1}: {ratios[-1]:.4f}", flush=True)
    result = {
        "what": "no_acc step time over the bare Trainer's, medians of each turn",
        "ratio": round(statistics.median(times[True]) / statistics.median(times[False]), 4),
        "ratio_per_round": [round(r, 4) for r in ratios],
        "bare_step_ms": round(1e3 * statistics.median(times[False]), 2),
        "no_acc_step_ms": round(1e3 * statistics.median(times[True]), 2),
        "machine": machine(),
        "options": {"rounds": args.rounds, "steps": args.steps},
    }
    keep(result, args.output)


if __name__ == "__main__":
    main()
