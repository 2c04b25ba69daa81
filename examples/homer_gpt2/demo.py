"""Fine-tunes a small GPT-2 with all four run configs on this machine and compares them."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from homer.files import write_atomically

from acpt_trainer import AcptError, reported_errors

HERE = Path(__file__).resolve().parent
RUN_CONFIGS = ("no_acc", "ort", "ds", "ds_ort")
SHARDED = ("ds", "ds_ort")
"""Run configs that are shown over several processes."""


class RunFailedError(AcptError):
    """A step of the demo ended with an error."""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--output_dir", type=Path, default=Path("outputs/demo"), help="default: outputs/demo")
    add("--max_steps", type=int, default=200, help="optimizer steps of each run (default: 200)")
    add("--block_size", type=int, default=64, help="tokens in a sample (default: 64)")
    add("--batch_size", type=int, default=8, help="samples a step, all processes (default: 8)")
    add("--nproc", type=int, default=2, help="processes of ds and ds_ort (default: 2)")
    add("--tokenizer_vocab_size", type=int, default=8192, help="default: 8192")
    add("--run_configs", nargs="+", default=list(RUN_CONFIGS), help="default: all four")
    return parser.parse_args(argv)


def run(name: str, command: Sequence[str], log: Path) -> None:
    """Runs a command, shows its output under a name and keeps its messages in a file.

    Raises:
        RunFailedError: If it fails; with the end of its messages.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=HERE
        )
        assert process.stdout is not None
        for line in process.stdout:
            print(f"[{name}] {line}", end="", flush=True)
        status = process.wait()
    print(f"[{name}] {time.perf_counter() - started:.0f} s", flush=True)
    if status:
        tail = "\n".join(log.read_text(encoding="utf-8").splitlines()[-25:])
        raise RunFailedError(f"{name} ended with status {status}; from {log}:\n{tail}")


def prepare(args: argparse.Namespace, data: Path) -> None:
    """Prepares the real text where HOMER_CACHE names a cache, the generated sample otherwise."""
    source = [] if os.environ.get("HOMER_CACHE") else ["--source", "sample"]
    vocabulary = ["--tokenizer_vocab_size", str(args.tokenizer_vocab_size)]
    command = [sys.executable, "prepare_data.py", *source, "--output_dir", str(data), *vocabulary]
    run("data", command, args.output_dir / "logs" / "data.txt")


def finetune(args: argparse.Namespace, data: Path, run_config: str) -> dict[str, Any]:
    """Trains one run config in a process of its own and returns its metrics."""
    processes = args.nproc if run_config in SHARDED else 1
    output = args.output_dir / run_config
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
        launcher += [str(processes)]
    options = {
        "run_config": run_config,
        "config_path": HERE / "configs" / "gpt2_small.json",
        "tokenizer_path": data / "tokenizer",
        "train_path": data / "training_raw.txt",
        "validation_path": data / "validation_raw.txt",
        "block_size": args.block_size,
        "batch_size": args.batch_size // processes,
        "max_steps": args.max_steps,
        "learning_rate": 1e-3,
        "warmup_steps": args.max_steps // 6,
        "logging_steps": 5,
        "eval_steps": max(1, args.max_steps // 2),
        "save_total_limit": 1,
        # One precision for all, so that the curves can be compared.
        "precision": "fp32",
        "output_dir": output,
    }
    flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    command = [*launcher, "finetune.py", "--from_scratch", "--overwrite", *flags]
    run(run_config, command, args.output_dir / "logs" / f"{run_config}.txt")
    return json.loads((output / "metrics.json").read_text(encoding="utf-8"))


def largest_difference(runs: Sequence[dict[str, Any]]) -> float:
    """The largest relative difference of the training losses of the same step."""
    reference = dict(map(tuple, runs[0]["loss_history"]))
    return max(
        abs(loss - reference[step]) / abs(reference[step])
        for other in runs
        for step, loss in other["loss_history"]
    )


def evidence(metrics: dict[str, Any]) -> str:
    """The shortest proof that a strategy ran, for a table."""
    found = metrics["strategy"]["evidence"]
    parts = [found, *(v for v in found.values() if isinstance(v, dict))]
    shown = []
    for part in parts:
        if part.get("grad_fn"):
            fused = sum(part.get("fused_ops", {}).values())
            shown.append(f"{part['grad_fn']}, {part['nodes']} nodes, {fused} fused")
        if "zero_optimizer" in part:
            share = f"{part['optimizer_state_share']:.0%} of the optimizer state"
            shown.append(f"{part['zero_optimizer']}, {share} per process")
    return "; ".join(shown) or f"{metrics['strategy']['parallel']} in PyTorch"


def shown(metrics: dict[str, Any], name: str, form: str) -> str:
    """A metric for a table; a dash where it is missing or was no finite number."""
    value = metrics.get(name)
    return "-" if value is None else format(value, form)


def summary_table(runs: Sequence[dict[str, Any]]) -> list[str]:
    """The comparison as lines of a Markdown table."""
    head = (
        "run config", "processes", "status", "train loss", "validation loss", "perplexity",
        "stable tokens/s", "peak memory MB", "evidence",
    )  # fmt: skip
    rows = [head, ("---",) * len(head)]
    for m in runs:
        rows.append(
            (
                m["run_config"], str(m["world_size"]), m["strategy"]["status"],
                shown(m, "train_loss", ".4f"), shown(m, "eval_loss", ".4f"),
                shown(m, "perplexity", ".1f"), shown(m, "stable_train_tokens_per_second", ",.0f"),
                shown(m, "peak_memory_mb", ",.0f"), evidence(m),
            )
        )  # fmt: skip
    return [f"| {' | '.join(row)} |" for row in rows]


def summarise(args: argparse.Namespace, data: Path, runs: Sequence[dict[str, Any]]) -> None:
    """Writes summary.json, summary.md and loss.png, and prints what they say."""
    from homer.results import plot_losses, write_metrics

    label = json.loads((data / "corpus.json").read_text(encoding="utf-8"))["label"]
    difference = largest_difference(runs)
    passage = runs[-1]["samples"][0]["text"]
    lines = [
        "# A small GPT-2 from scratch, four ways",
        "",
        f"Corpus: {label}. {args.max_steps} steps of {args.batch_size} x {args.block_size} tokens, "
        "fp32, no dropout.",
        "",
        *summary_table(runs),
        "",
        f"Largest relative difference of the training losses per step: {difference:.1e}.",
        "",
        "![loss](loss.png)",
        "",
        f"A passage by the model of {runs[-1]['run_config']}:",
        "",
        *(f"> {line}" for line in passage.splitlines()),
        "",
    ]
    write_metrics(
        {"corpus": label, "largest_relative_loss_difference": difference, "runs": list(runs)},
        args.output_dir / "summary.json",
    )
    write_atomically({args.output_dir / "summary.md": "\n".join(lines).encode()})
    curves = {
        f"{m['run_config']} ({m['world_size']} proc.)": (m["loss_history"], m["eval_loss_history"])
        for m in runs
    }
    plot_losses(curves, args.output_dir / "loss.png", f"GPT-2 from scratch on: {label}")
    print("\n".join(lines))
    print(f"kept in {args.output_dir}: summary.json, summary.md, loss.png, a model folder each")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the demo; ends with status 2 if a part fails or a strategy did not engage."""
    args = parse(argv)
    args.output_dir = args.output_dir.resolve()
    with reported_errors():
        data = args.output_dir / "data"
        prepare(args, data)
        runs = [finetune(args, data, name) for name in args.run_configs]
        summarise(args, data, runs)
        idle = [m["run_config"] for m in runs if m["strategy"]["status"] != "engaged"]
        if idle:
            raise RunFailedError(f"not engaged: {', '.join(idle)}")


if __name__ == "__main__":
    main()
