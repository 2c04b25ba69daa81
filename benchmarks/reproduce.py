"""Measures every figure that the docs name with `acpt-trainer bench`, and holds it to its bar.

Each figure is a benchmark of some minutes. One that was killed goes on. Without names all are
measured; results go to benchmarks/results, pictures and logs to outputs/benchmarks.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SEVEN = ("bert", "gpt2", "t5", "bart", "distilbert", "roberta", "deberta")

Rows = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Bar:
    """What a figure must reach.

    Attributes:
        what: The figure, in words.
        value: Makes it of the rows by strategy; None where a row has no figure.
        least: It must be at least this much.
        most: It must be at most this much.
    """

    what: str
    value: Callable[[Rows], float | None]
    least: float | None = None
    most: float | None = None

    def line(self, rows: Rows) -> str:
        """A row of the table."""
        try:
            value = self.value(rows)
        except (KeyError, TypeError):
            value = None
        bound = f"at least {self.least}" if self.least is not None else f"at most {self.most}"
        holds = value is not None and (
            value >= self.least if self.least is not None else value <= (self.most or 0)
        )
        shown = "-" if value is None else f"{value:.3g}"
        return f"| {self.what} | {bound} | {shown} | {'yes' if holds else 'no'} |"


def over(name: str, *others: str) -> Callable[[Rows], float | None]:
    """Speed over the best of others."""
    return lambda rows: rows[name]["speedup"] / max(rows[other]["speedup"] for other in others)


def of(name: str, key: str) -> Callable[[Rows], float | None]:
    """A figure of a row."""
    return lambda rows: rows[name][key]


def bytes_over(name: str, other: str) -> Callable[[Rows], float | None]:
    """Optimizer state of a process over another's."""
    key = "optimizer_state_bytes"
    return lambda rows: rows[name][key] / rows[other][key]


@dataclass(frozen=True)
class Figure:
    """A benchmark and what it must show."""

    model: str
    strategies: str
    options: Sequence[str] = ()
    bars: Sequence[Bar] = field(default_factory=tuple)


SHORT = ("--batch_size", "8", "--block_size", "128", "--steps", "30", "--rounds", "6")
FIGURES = {
    "gpt2_124m": Figure(
        "gpt2_124m", "no_acc,no_acc:eager,ort",
        ("--batch_size", "2", "--block_size", "256", "--steps", "12", "--rounds", "4",
         "--warmup_steps", "1"),
        (
            Bar("GPT-2 124M: `ort` over the best of eager and sdpa `no_acc`",
                over("ort", "no_acc", "no_acc:eager"), least=1.30),
            Bar("the same: achieved over measured matmul rate of `ort`", of("ort", "mfu"),
                least=0.75),
            Bar("the same: steps that pay back the first one", of("ort", "break_even_steps"),
                most=30),
        ),
    ),
    "two_processes": Figure(
        "gpt2", "no_acc,ds,ds_ort", (*SHORT, "--nproc", "2", "--batch_size", "4"),
        (
            Bar("two processes: `ds_ort` over `ds`", over("ds_ort", "ds"), least=1.20),
            Bar("two processes: `ds` over DDP", over("ds", "no_acc"), least=0.95),
            Bar("two processes: optimizer bytes a process, `ds` over DDP",
                bytes_over("ds", "no_acc"), most=0.55),
        ),
    ),
    "precisions": Figure("gpt2", "no_acc,no_acc:bf16,ort", ("--batch_size", "4", "--block_size",
                                                            "64", "--steps", "10")),
    "one_length": Figure("gpt2", "no_acc,ort", ("--batch_size", "8", "--block_size", "128",
                                                "--steps", "40")),
    "forty_lengths": Figure("gpt2", "no_acc,ort", ("--batch_size", "8", "--block_size", "170",
                                                   "--steps", "40", "--lengths", "40")),
    **{
        f"seven_{name}": Figure(
            name, "no_acc,ort", SHORT,
            (Bar(f"{name} at a CPU size: `ort` over `no_acc`", of("ort", "speedup"), least=1.0),),
        )
        for name in SEVEN
    },
}  # fmt: skip


def measure(name: str, figure: Figure, overwrite: bool) -> None:
    """Runs a benchmark and keeps its results."""
    out = HERE.parent / "outputs" / "benchmarks" / name
    command = [sys.executable, "-c", "from acpt_trainer.cli import main; main()", "bench"]
    command += ["--model", str(HERE / "configs" / f"{figure.model}.json")]
    command += ["--strategies", figure.strategies, *figure.options, "--output_dir", str(out)]
    print(f"== {name}: acpt-trainer {' '.join(command[3:])}", flush=True)
    with tempfile.TemporaryDirectory() as cache:  # a first step is the first one ever
        environment = {**os.environ, "ACPT_TRAINER_CACHE": cache}
        environment.pop("OMP_NUM_THREADS", None)  # all cores
        command += ["--overwrite"] if overwrite else []
        done = subprocess.run(command, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{name} could not be measured: exit status {done.returncode}")
    text = (out / "results.json").read_text(encoding="utf-8")
    found = json.loads(text.replace(f"{HERE.parent}/", ""))  # no path of a machine
    kept = HERE / "results" / f"bench_{name}.json"
    kept.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def results(name: str) -> Rows | None:
    """The rows of a figure by strategy, with their details."""
    file = HERE / "results" / f"bench_{name}.json"
    if not file.is_file():
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    pairs = zip(found["rows"], found["details"], strict=True)
    return {row["strategy"]: {**detail, **row} for row, detail in pairs}


def summary() -> list[str]:
    """The table of bars, for every figure that was measured."""
    lines = ["| figure | bar | measured | reached |", "| --- | --- | --- | --- |"]
    ratios = []
    for name, figure in FIGURES.items():
        rows = results(name)
        lines += [bar.line(rows) for bar in figure.bars if rows is not None]
        if rows is not None and name.startswith("seven_") and rows["ort"]["speedup"]:
            ratios.append(rows["ort"]["speedup"])
    if len(ratios) == len(SEVEN):
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        lines.append(Bar("the seven: geometric mean", lambda _: mean, least=1.2).line({}))
    one, forty = results("one_length"), results("forty_lengths")
    if one and forty:
        bar = Bar(
            "40 lengths: tokens a second of `ort` over those of one length",
            lambda _: forty["ort"]["tokens_per_second"] / one["ort"]["tokens_per_second"],
            least=0.9,
        )
        again = Bar(
            "the same: graphs made", lambda _: forty["ort"]["report"]["evidence"]["graphs"], most=1
        )
        lines += [bar.line({}), again.line({})]
    return lines


def main() -> None:
    """Measures, and writes the table of what was measured so far."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of: {', '.join(FIGURES)} (default: all)")
    parser.add_argument("--overwrite", action="store_true", help="begin anew")
    args = parser.parse_args()
    unknown = sorted(set(args.names) - set(FIGURES))
    if unknown:
        parser.error(f"no figure named {', '.join(unknown)}")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for name in args.names or FIGURES:
        measure(name, FIGURES[name], args.overwrite)
    table = "\n".join(summary())
    (HERE / "results" / "bench.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
