"""A benchmark's results as files: `results.json` for programs, `results.md` for people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from acpt_trainer.measure.figures import Details, Figures, Row
from acpt_trainer.measure.mailbox import write_json

_HEAD = (
    "strategy", "precision", "step", "samples/s", "tokens/s", "speed-up", "MFU", "peak memory",
    "optimizer state",    "first step", "paid back after", "final loss",
)  # fmt: skip


def write_results(found: Figures, folder: Path) -> list[Path]:
    """Writes both files.

    Args:
        found: The results.
        folder: An existing folder.
    """
    files = [folder / "results.json", folder / "results.md"]
    write_json(files[0], found.to_dict())
    files[1].write_text("\n".join(markdown(found)) + "\n", encoding="utf-8")
    return files


def markdown(found: Figures) -> Iterator[str]:
    """The lines of `results.md`."""
    request, first = found.request, found.rows[0]
    yield "# Benchmark"
    yield ""
    yield f"{title(found)}; {found.model['parameters']:,} parameters."
    yield ""
    yield f"{_machine(found.machine)}."
    yield ""
    yield f"| {' | '.join(_HEAD)} |"
    yield "|" + " --- |" * len(_HEAD)
    for row, detail in zip(found.rows, found.details, strict=True):
        yield f"| {' | '.join(_cells(row, detail))} |"
    yield ""
    yield from _reasons(found)
    yield from _splits(found)
    yield (
        f"Medians; in brackets the quartiles of steps, and the lowest and highest round of the "
        f"speed-up, which is in samples a second over `{first.strategy}` in the same round. Each "
        f"strategy is a process of its own, and they take turns: {request['rounds']} rounds of "
        f"{_turn(request)} steps after one that is not measured. MFU: achieved operations over the "
        "rate of a matrix multiplication in the same precision, measured in each round. Paid back: "
        "steps after which a longer start (preparation and first step) is made up for. Memory and "
        "optimizer state: of the process that holds most."
    )


def title(found: Figures) -> str:
    """The model and the data, in a line."""
    return f"{found.model['model']}, {_data(found.request)}"


def _data(request: dict[str, Any]) -> str:
    lengths = request["lengths"]
    varied = "" if lengths == 1 else f" in {lengths} lengths"
    processes = "" if request["nproc"] == 1 else f" in each of {request['nproc']} processes"
    return f"batch {request['batch_size']} x {request['block_size']}{varied}{processes}"


def _machine(machine: dict[str, Any]) -> str:
    versions, devices = machine["versions"], machine["cuda"]
    cpu = f"{machine['cpu']['model']}, {machine['cpu']['cores']} cores"
    cpu += f" (load before: {machine['load_before']})"
    kept = ("torch", "transformers", "accelerate", "deepspeed", "onnxruntime-training-cpu",
            "onnxruntime-training")  # fmt: skip
    named = ", ".join(f"{name} {versions[name]}" for name in kept if name in versions)
    return f"{', '.join([*devices, cpu])}; {named}"


def _cells(row: Row, detail: Details) -> list[str]:
    if row.status != "ok":
        return [f"`{row.strategy}`", row.precision, row.status, *[""] * (len(_HEAD) - 3)]
    low, high = detail.step_quartiles or (0.0, 0.0)
    slow, fast = detail.speedup_range or (0.0, 0.0)
    return [
        f"`{row.strategy}`",
        row.precision,
        f"{_ms(row.step_seconds)} ms ({_ms(low)} to {_ms(high)})",
        _number(row.samples_per_second, ".2f"),
        _number(row.tokens_per_second, ".0f"),
        "" if row.speedup is None else f"{row.speedup:.2f} ({slow:.2f} to {fast:.2f})",
        _number(row.mfu, ".2f"),
        f"{_number(row.peak_memory_mb, '.0f')} MB",
        f"{(detail.optimizer_state_bytes or 0) / 1e6:.4g} MB",
        f"{_number(row.first_step_seconds, '.2f')} s",
        "never" if row.break_even_steps is None else f"{row.break_even_steps} steps",
        _number(row.final_loss, ".4f"),
    ]


def _reasons(found: Figures) -> Iterator[str]:
    for row, detail in zip(found.rows, found.details, strict=True):
        if row.status != "ok":
            fix = f" Way out: {detail.fix}." if detail.fix else ""
            yield f"* `{row.strategy}` {row.status}: {detail.reason}.{fix}"
    if any(row.status != "ok" for row in found.rows):
        yield ""


def _splits(found: Figures) -> Iterator[str]:
    yield "| strategy | data | forward | backward | optimizer |"
    yield "| --- | --- | --- | --- | --- |"
    for row, detail in zip(found.rows, found.details, strict=True):
        if detail.split_seconds:
            parts = (f"{_ms(value)} ms" for value in detail.split_seconds.values())
            yield f"| `{row.strategy}` | {' | '.join(parts)} |"
    yield ""


def _turn(request: dict[str, Any]) -> int:
    return max(1, -(-int(request["steps"]) // int(request["rounds"])))


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds * 1e3:.4g}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
