"""Calls of `aml_finetune.py` in this process, with the real SDK against the emulator."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import aml_finetune
from homer.azure.emulator import Emulator, Fault
from homer.azure.workspace import KEYS

DONE = Fault("PUT .*/jobs/", job={"status": "Completed"})
"""Jobs are not run here: that is test_azure_emulated.py's."""


@dataclasses.dataclass
class Submit:
    """Calls the script in this process, against the emulator."""

    emulator: Emulator
    folder: Path

    def __call__(self, *options: str, faults: tuple[Fault, ...] = (), **config: str) -> int:
        # Faults are used up; a copy is left to the next caller.
        self.emulator.faults[:] = [dataclasses.replace(fault) for fault in faults] + [
            dataclasses.replace(DONE)
        ]
        self.emulator.requests.clear()
        names = vars(self.emulator.workspace) | config
        path = self.folder / "config.json"
        path.write_text(json.dumps({key: names[key] for key in KEYS}))
        given = ["--ws_config", str(path), "--compute", "gpu8", "--nproc_per_node", "8"]
        try:
            return aml_finetune.main([*given, *options])
        except SystemExit as stop:
            return int(stop.code or 0)

    def forget_code(self) -> None:
        """Makes the next call upload the code again."""
        self.emulator.state.delete(f"{self.emulator.state.workspace_id}/codes")

    def sent(self, method: str, pattern: str) -> list[dict[str, Any]]:
        """Requests of the last call."""
        return [
            r
            for r in self.emulator.requests
            if r.get("method") == method and re.search(pattern, r["path"])
        ]
