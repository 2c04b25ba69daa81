"""The rows as the page docs/reference/models.md."""

from __future__ import annotations

from collections.abc import Mapping

from .checks import CHECKS, Row
from .zoo import GROUPS, Entry

Rows = Mapping[tuple[str, str, str], Row]

HEADINGS = {
    "exact": "dropout 0: loss, gradient",
    "dropout": "dropout on",
    "left": "left padding",
    "unmasked": "no mask",
    "outside": "loss outside",
    "evaluate": "evaluate, generate",
}
TOP = """\
# Model types under `ort`

Made by `make coverage-table`; each row is a test (`make test-long`). Tiny models with random
weights, on a CPU, each against the same model in PyTorch.

| | version |
| --- | --- |
{versions}

* **dropout 0**: three steps of three shapes in one graph, padded right, an SGD update between. The
  largest relative difference of the loss (bar: 1e-5), and of a parameter's gradient (bar: 1e-4;
  norm of the difference over norm of the gradient, or over a thousandth of the largest).
* **dropout on**: {draws} losses: finite, varied, repeated from the same random state, with
  PyTorch's mean (within sampling error) and spread.
* **left padding**, **no mask**: as the first, padded left or without `attention_mask`.
* **loss outside**: no labels in the call; Trainer's label smoothing on the logits.
* **evaluate, generate**: after training, equal to PyTorch's on the same weights, and outside of the
  training graph.

{held} of {total} combinations of model type, attention and dropout hold. A dash: does not apply (no
mask, no dropout, no logits). No operator runs in PyTorch from within a graph unless a note says so.
"""


def cell(row: Row) -> str:
    """One check as it stands in the table."""
    if row.status == "none":
        return "—"
    if row.status != "holds":
        return f"**{row.status}**"
    if row.check in ("exact", "left", "unmasked", "outside"):
        return f"{row.loss or 0:.0e}, {row.gradient or 0:.0e}"
    return "holds"


def reason(row: Row) -> str:
    """Why a row does not hold: what the error says before it says where."""
    text = row.reason.partition("\n")[0] if row.status == "refused" else row.reason
    return " ".join(text.split()).replace("|", "\\|")[:300]


def page(entries: Mapping[str, Entry], rows: Rows, versions: Mapping[str, str]) -> str:
    """The whole page."""
    from .checks import DRAWS

    counted = [row for row in rows.values() if row.entry in entries]
    counted = [row for row in counted if row.check in ("exact", "dropout")]
    counted = [row for row in counted if row.status != "none"]
    text = TOP.format(
        versions="\n".join(f"| {name} | {version} |" for name, version in versions.items()),
        draws=DRAWS,
        held=sum(row.status == "holds" for row in counted),
        total=len(counted),
    )
    for group in GROUPS:
        members = [entry for entry in entries.values() if entry.group == group]
        if members:
            text += f"\n## {group.capitalize()}\n\n" + table(members, rows)
    return text


def table(members: list[Entry], rows: Rows) -> str:
    """The rows of one group, and under them why some do not hold."""
    head = ["model type", "class", "attention", *HEADINGS.values()]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    reasons = []
    for entry in members:
        for attention in entry.attentions:
            found = [rows[entry.name, attention, check] for check in CHECKS]
            cells = [entry.name, f"`{entry.model}`", attention, *map(cell, found)]
            lines.append("| " + " | ".join(cells) + " |")
            reasons += [
                f"* {entry.name}, {attention}, {HEADINGS[row.check]}: {reason(row)}"
                for row in found
                if row.status not in ("holds", "none")
            ]
            operators = max(row.aten_ops + row.python_ops for row in found)
            if operators:
                reasons.append(f"* {entry.name}, {attention}: {operators} operators run in PyTorch")
    return "\n".join(lines) + "\n" + ("\n" + "\n".join(reasons) + "\n" if reasons else "")
