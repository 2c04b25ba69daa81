"""`make coverage-table`: runs every check of every entry and writes docs/reference/models.md.

Rows are kept in outputs/coverage/rows.jsonl, by versions and by what the entry is, so that a run
that was broken off goes on where it stopped. `--fresh` measures all anew.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import platform
import threading
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from .checks import CHECKS, Row
from .isolated import Job, run_jobs
from .page import page
from .zoo import Entry, entries

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "models.md"
KEPT = ROOT / "outputs" / "coverage" / "rows.jsonl"
PACKAGES = ("torch", "transformers", "onnxruntime-training-cpu", "onnx")


def versions() -> dict[str, str]:
    """What the table was made with; the local build tag of torch left out."""
    found = {name: importlib.metadata.version(name).partition("+")[0] for name in PACKAGES}
    return {"python": ".".join(platform.python_version_tuple()[:2]), **found}


def key_of(entry: Entry) -> str:
    """Stands for the versions and for what the entry is."""
    said = [f"{k}={getattr(entry, k)!r}" for k in ("model", "config", "no_dropout", "attentions")]
    return hashlib.sha256(repr([versions(), said]).encode()).hexdigest()[:16]


class Kept:
    """Rows measured before, in a file of lines."""

    def __init__(self, path: Path, fresh: Iterable[str] = ()) -> None:
        self.path = path
        self.lock = threading.Lock()
        self.rows: dict[tuple[str, str, str], Row] = {}
        fresh = set(fresh)
        keys = {entry.name: key_of(entry) for entry in entries().values()}
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for line in lines:
            found = json.loads(line)
            key, row = found.pop("key"), Row(**found)
            if keys.get(row.entry) == key and row.entry not in fresh and row.check in CHECKS:
                self.rows[row.entry, row.attention, row.check] = row
        self.keys = keys

    def add(self, row: Row) -> None:
        """Keeps a row, at once also in the file."""
        with self.lock:
            self.rows[row.entry, row.attention, row.check] = row
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**asdict(row), "key": self.keys[row.entry]}) + "\n")
            print(line_of(row), flush=True)


def line_of(row: Row) -> str:
    """A row as a line of progress."""
    figures = "" if row.loss is None else f"loss {row.loss:.0e} gradient {row.gradient or 0:.0e}"
    words = [
        f"{row.entry:26} {row.attention:6} {row.check:9} {row.status:8} {row.seconds:6.1f} s",
        figures,
        " ".join(row.reason.split())[:300],
    ]
    return "  ".join(word for word in words if word)


def jobs_for(names: Sequence[str], kept: Kept) -> list[Job]:
    """What is left to run."""
    jobs = []
    for name in names:
        for attention in entries()[name].attentions:
            left = tuple(c for c in CHECKS if (name, attention, c) not in kept.rows)
            if left:
                jobs.append(Job(name, attention, left))
    return jobs


def main() -> None:
    """Runs what is asked for and writes the page once every entry has its rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="names or parts of names, separated by commas")
    parser.add_argument("--jobs", type=int, default=2, help="how many run side by side")
    parser.add_argument("--fresh", action="store_true", help="measure anew what is asked for")
    arguments = parser.parse_args()
    parts = [part for part in arguments.only.split(",") if part]
    names = [n for n in entries() if not parts or any(part in n for part in parts)]
    kept = Kept(KEPT, fresh=names if arguments.fresh else ())
    run_jobs(jobs_for(names, kept), kept.add, workers=arguments.jobs)
    left = len(jobs_for(list(entries()), kept))
    if left:
        print(f"{left} of the table's rows are not measured yet; {PAGE.name} is left as it is")
        return
    PAGE.write_text(page(entries(), kept.rows, versions()), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
