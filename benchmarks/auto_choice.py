"""How far is what `auto` takes from the fastest single strategy, and is its run the winner's own?

For each model `auto` chooses for a long run. `acpt-trainer bench` then measures the same candidates
in turn, and the winner's step is divided by the fastest one's. Eight steps are trained under `auto`
and under the winner's name: their losses must be equal. At last the first model is chosen for with
fp32 and bf16 both allowed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LONG = 100_000
"""Steps of the run that `auto` chooses for: the start is then of no weight."""


def trainer(config: Path, strategy: Any, folder: str, batch: int, block: int) -> Any:
    """A trainer of random weights on random rows, dropout on."""
    import torch
    from transformers import TrainingArguments, default_data_collator

    from acpt_trainer import AcceleratedTrainer
    from acpt_trainer.measure.models import load_model, sample_batch

    torch.manual_seed(0)
    model = load_model(str(config))
    rows = [
        {name: value[0] for name, value in sample_batch(model, 1, block).items()}
        for _ in range(16 * batch)
    ]
    args = TrainingArguments(
        folder, max_steps=8, per_device_train_batch_size=batch, save_strategy="no", report_to=[],
        logging_steps=1, disable_tqdm=True, seed=0,
    )  # fmt: skip
    return AcceleratedTrainer(
        model=model, args=args, train_dataset=rows, data_collator=default_data_collator,
        strategy=strategy,
    )  # fmt: skip


def trained(made: Any) -> list[float]:
    """The losses of a run."""
    made.train()
    return [entry["loss"] for entry in made.state.log_history if "loss" in entry]


def settled(config: Path, args: argparse.Namespace, folder: str, precisions: list[str]) -> Any:
    """A trainer for which `auto` has chosen for a long run, and which trains a short one."""
    from acpt_trainer import get_strategy

    auto = get_strategy("auto").build(
        candidates=args.candidates.split(","),
        precisions=precisions,
        budget=args.budget,
        cache=False,
    )
    made = trainer(config, auto, folder, args.batch_size, args.block_size)
    made.args.max_steps = LONG
    made._settle(None)
    made.args.max_steps = 8
    return made


def chosen(made: Any) -> dict[str, Any]:
    """What `auto` took, and why."""
    choice = made.strategy_report().choice
    return {k: choice[k] for k in ("strategy", "precision", "why", "seconds", "table")}


def measure(config: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Chooses, measures after the fact, and compares the losses."""
    with tempfile.TemporaryDirectory() as folder:
        ours = settled(config, args, folder, ["fp32"])
        choice = chosen(ours)
        ours = trained(ours)
        theirs = trained(
            trainer(config, choice["strategy"], folder, args.batch_size, args.block_size)
        )
        command = [sys.executable, "-c", "from acpt_trainer.cli import main; main()", "bench"]
        command += ["--model", str(config)]
        command += ["--strategies", args.candidates, "--batch_size", str(args.batch_size)]
        command += ["--block_size", str(args.block_size), "--output_dir", folder + "/bench"]
        subprocess.run([*command, "--no_pictures", "--precision", "fp32"], check=True)
        bench = json.loads(Path(folder, "bench", "results.json").read_text())
    steps = {r["strategy"]: r["step_seconds"] for r in bench["rows"] if r["step_seconds"]}
    return {
        "choice": choice,
        "bench_step_seconds": steps,
        "slower_than_the_best": steps[choice["strategy"]] / min(steps.values()),
        "losses_equal": ours == theirs,
        "machine": bench["machine"],
    }


def main() -> None:
    """Measures the models and prints and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["gpt2", "bert", "t5"])
    parser.add_argument("--candidates", default="no_acc,ort,compile")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--block_size", type=int, default=128)
    parser.add_argument("--budget", type=float, default=600.0)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    found: dict[str, Any] = {"load_before": round(os.getloadavg()[0], 2)}
    for name in args.models:
        found[name] = measure(HERE / "configs" / f"{name}.json", args)
        print(name, json.dumps(found[name], indent=1), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        both = settled(HERE / "configs" / f"{args.models[0]}.json", args, folder, ["fp32", "bf16"])
        found["precision_free"] = {"model": args.models[0], "choice": chosen(both)}
        print("precision free", json.dumps(found["precision_free"], indent=1), flush=True)
    if args.output:
        args.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
