"""What of a benchmark is done: each answer is a file, so that a killed one goes on."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from acpt_trainer.errors import Problem, raise_if_any
from acpt_trainer.measure.entry import BenchRequest, Entry
from acpt_trainer.measure.mailbox import read_json, write_json
from acpt_trainer.report import versions

RESULTS = "results.json"


class Store:
    """Answers under `output_dir/turns`.

    Args:
        folder: The benchmark's folder.
        request: What is measured.
        overwrite: Begin anew whatever the folder holds.

    Raises:
        ConfigurationError: If the folder holds another benchmark.
    """

    def __init__(self, folder: Path, request: BenchRequest, overwrite: bool = False) -> None:
        self.folder, self.request = folder, request
        self.turns = folder / "turns"
        # As JSON has it: what is read back is compared with it.
        asked = json.loads(json.dumps({**request.to_dict(), "versions": versions()}))
        found = read_json(self.turns / "request.json")
        if overwrite and self.turns.is_dir():
            shutil.rmtree(self.turns)
            found = None
        if found is not None and found != asked:
            different = sorted(k for k in {*found, *asked} if found.get(k) != asked.get(k))
            raise_if_any(
                [
                    Problem(
                        f"the folder holds a benchmark with other {', '.join(different)}",
                        f"--output_dir {folder}",
                        "name another folder, or --overwrite",
                    )
                ],
                "Cannot go on with a benchmark",
            )
        self.turns.mkdir(parents=True, exist_ok=True)
        write_json(self.turns / "request.json", asked)

    def place(self, entry: Entry) -> Path:
        """The folder of an entry."""
        number = list(self.request.entries).index(entry) + 1
        return self.turns / f"{number}-{re.sub('[^A-Za-z0-9_]+', '-', entry.label)}"

    def get(self, name: str, entry: Entry | None = None) -> Any:
        """An answer; None if there is none yet."""
        return read_json(self._file(name, entry))

    def put(self, name: str, value: Any, entry: Entry | None = None) -> None:
        """Keeps an answer."""
        file = self._file(name, entry)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, value)

    def _file(self, name: str, entry: Entry | None) -> Path:
        return (self.turns if entry is None else self.place(entry)) / f"{name}.json"

    def rounds_left(self, entry: Entry) -> list[int]:
        """Turns that an entry has not made; none where it failed."""
        if self.get("fault", entry) is not None:
            return []
        every: Sequence[int] = range(self.request.rounds)
        return [r for r in every if self.get(f"turn-{r}", entry) is None]
