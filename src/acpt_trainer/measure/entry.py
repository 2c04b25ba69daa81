"""What a benchmark is asked to do: the entries that take turns, and what they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from acpt_trainer.errors import Problem

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
ATTENTIONS = ("eager", "sdpa")

PARTS = ("data", "forward", "backward", "optimizer")
"""What a step is split into."""


@dataclass(frozen=True)
class Entry:
    """One of those that take turns.

    Attributes:
        label: As the user spelled it, such as `ort` or `no_acc:bf16:eager`.
        strategy: The strategy's name.
        precision: What it is asked to train in.
        attention: Attention implementation; the model's own if None.
    """

    label: str
    strategy: str
    precision: str
    attention: str | None = None


def parse_entries(
    text: str, precision: str, attention: str | None
) -> tuple[list[Entry], list[Problem]]:
    """Reads `a,b:bf16,c:eager`: names, each with a precision and attention of its own.

    Args:
        text: What the user gave.
        precision: For those that name none.
        attention: The same.

    Returns:
        The entries, and what is wrong with them.
    """
    entries: list[Entry] = []
    problems = []
    for label in (part.strip() for part in text.split(",") if part.strip()):
        name, *options = (part.strip() for part in label.split(":"))
        chosen = {"precision": precision, "attention": attention}
        for option in options:
            if option in PRECISIONS:
                chosen["precision"] = option
            elif option in ATTENTIONS:
                chosen["attention"] = option
            else:
                problems.append(
                    Problem(
                        f"{option!r} is neither a precision nor an attention",
                        f"--strategies {label}",
                        f"give one of: {', '.join((*PRECISIONS, *ATTENTIONS))}",
                    )
                )
        if any(label == entry.label for entry in entries):
            problems.append(
                Problem(f"{label!r} is named twice", f"--strategies {text}", "name each once")
            )
        entries.append(Entry(label, name, str(chosen["precision"]), chosen["attention"]))
    if not entries:
        problems.append(
            Problem("no strategy is named", f"--strategies {text!r}", "name some: no_acc,ort")
        )
    return entries, problems


@dataclass(frozen=True)
class BenchRequest:
    """What to measure.

    Attributes:
        model: Name, folder or config, see `load_model`.
        entries: Those that take turns; the first is what the others are compared with.
        batch_size: Rows of a process in a step.
        block_size: Tokens of the longest rows.
        steps: Measured steps of each entry.
        rounds: Turns of each entry.
        warmup_steps: Steps after the first that are not measured.
        nproc: Processes of each entry.
        lengths: How many lengths rows have.
        seed: Seed of weights, rows and dropout.
        learning_rate: AdamW's.
        imports: Modules that register strategies.
    """

    model: str
    entries: Sequence[Entry]
    batch_size: int = 8
    block_size: int = 128
    steps: int = 20
    rounds: int = 5
    warmup_steps: int = 3
    nproc: int = 1
    lengths: int = 1
    seed: int = 0
    learning_rate: float = 5e-5
    imports: Sequence[str] = ()

    @property
    def steps_per_turn(self) -> int:
        """Measured steps of a turn."""
        return max(1, -(-self.steps // self.rounds))

    def job(self, entry: Entry) -> dict[str, Any]:
        """What a worker needs to know."""
        shared = self.to_dict()
        shared.pop("entries")
        return {"kind": "trains", **shared, **asdict(entry)}

    def to_dict(self) -> dict[str, Any]:
        """The request as plain data."""
        return {**asdict(self), "entries": [asdict(e) for e in self.entries]}
