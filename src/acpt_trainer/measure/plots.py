"""Pictures of a benchmark's results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from acpt_trainer.measure.figures import Details, Figures, Row
from acpt_trainer.measure.results import title
from acpt_trainer.requirements import Requirement

MATPLOTLIB = Requirement("matplotlib", ("matplotlib",), "bench")

_Pairs = list[tuple[Row, Details]]


def write_pictures(found: Figures, folder: Path) -> list[Path]:
    """Draws speed-up, loss and memory of the rows that have figures.

    Args:
        found: The results.
        folder: An existing folder.

    Returns:
        The files.
    """
    pairs = [p for p in zip(found.rows, found.details, strict=True) if p[0].status == "ok"]
    if not pairs:
        return []
    files = []
    for name, draw in (("speedup", _speedup), ("loss", _loss), ("memory", _memory)):
        from matplotlib.figure import Figure  # no state of pyplot, no display

        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        axes.set_title(title(found), fontsize="medium")
        draw(axes, pairs)
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], dpi=120)
    return files


def _labels(pairs: _Pairs) -> list[str]:
    return [f"{row.strategy}\n{row.precision}" for row, _ in pairs]


def _speedup(axes: Any, pairs: _Pairs) -> None:
    drawn = [(r, d) for r, d in pairs if r.speedup is not None and d.speedup_range is not None]
    heights = [r.speedup or 0.0 for r, _ in drawn]
    ranges = [d.speedup_range or (0.0, 0.0) for _, d in drawn]
    below = [h - low for h, (low, _) in zip(heights, ranges, strict=True)]
    above = [high - h for h, (_, high) in zip(heights, ranges, strict=True)]
    bars = axes.bar(_labels(drawn), heights, yerr=[below, above], capsize=4)
    axes.bar_label(bars, fmt="%.2f", label_type="center")
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_ylabel(f"samples a second over {pairs[0][0].strategy}")


def _loss(axes: Any, pairs: _Pairs) -> None:
    for number, (row, detail) in enumerate(pairs):
        steps = range(1, len(detail.losses) + 1)
        # Curves lie on each other where strategies agree: the first is the widest.
        wide, label = 1.5 + 2 * (len(pairs) - 1 - number), f"{row.strategy} {row.precision}"
        axes.plot(steps, detail.losses, label=label, linewidth=wide)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.legend()


def _memory(axes: Any, pairs: _Pairs) -> None:
    bars = axes.bar(_labels(pairs), [row.peak_memory_mb or 0.0 for row, _ in pairs])
    axes.bar_label(bars, fmt="%.0f")
    axes.margins(y=0.1)
    axes.set_ylabel("peak memory, MB")
