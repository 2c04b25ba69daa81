"""Writes docs/reference/model-families.md: each further family against PyTorch, without dropout."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

from .checks import Row
from .families import families
from .isolated import Job, run_jobs

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "model-families.md"
PACKAGES = ("torch", "transformers", "onnxruntime-training-cpu")
HEAD = """# Further model families under `ort`

Tiny models of {count} families beside [those that are checked in full](models.md): three steps of
three shapes in one graph, no dropout, padded on the right, with the attention that transformers
takes by itself; mixtures of experts with `set_experts_implementation("batched_mm")`. Loss within
1e-5 and each gradient within 1e-4 of PyTorch.
**{held} of {count} hold.** Written by `make families-table` with {versions}.

| family | model | outcome | loss | gradient |
| --- | --- | --- | --- | --- |
"""


def line(row: Row) -> str:
    """One row of the table; for what does not hold, the first line of the reason."""
    model = families()[row.entry].model
    if row.status == "holds":
        return f"| {row.entry} | `{model}` | holds | {row.loss:.0e} | {row.gradient:.0e} |"
    reason = row.reason.strip().splitlines()[0].replace("|", "/")[:240]
    return f"| {row.entry} | `{model}` | {row.status}: {reason} | | |"


def main() -> None:
    """Runs all families and writes the page."""
    rows: dict[str, Row] = {}

    def report(row: Row) -> None:
        rows[row.entry] = row
        print(row.entry, row.status, row.reason[:200].replace("\n", " "), flush=True)

    jobs = [Job(name, "default", ("exact",)) for name in families()]
    run_jobs(jobs, report, workers=os.cpu_count() or 1)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    held = sum(row.status == "holds" for row in rows.values())
    text = HEAD.format(count=len(rows), held=held, versions=versions)
    text += "".join(line(rows[name]) + "\n" for name in families())
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
