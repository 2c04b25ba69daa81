"""Commands of the Azure scripts, run against the emulator as a user runs them."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_runs import EXAMPLE, SOURCE, Workspace, environment


@dataclass(frozen=True)
class Run:
    """A command that ended.

    Attributes:
        done: The emulator's process; its exit status is the command's.
        requests: What the SDK asked for in this run, in order.
        refused: Hosts that were asked for and are not played.
    """

    done: subprocess.CompletedProcess[str]
    requests: list[dict[str, Any]]
    refused: list[str]

    @property
    def shown(self) -> str:
        """All that was printed, for a failed assertion."""
        return self.done.stdout[-4000:] + self.done.stderr[-6000:]


@dataclass(frozen=True)
class Emulated:
    """A copy of the example with prepared data, and the emulator's state beside it.

    Attributes:
        example: The example's folder, as a user has it.
        state: The emulator's folder.
        hub: A Hugging Face home with a tiny model under the name `gpt2`.
    """

    example: Path
    state: Path
    hub: Path

    @property
    def config(self) -> Path:
        """The workspace's config.json."""
        return self.state / "config.json"

    def __call__(
        self, command: str, faults: Sequence[dict[str, Any]] = (), timeout: float = 400
    ) -> Run:
        """Runs a shell command line in the example's folder under the emulator."""
        log = self.state / "requests.jsonl"
        before = len(_lines(log))
        spec = self.state / "faults.json"
        spec.write_text(json.dumps(list(faults)))
        options = f"--state {self.state} --hf_home {self.hub} --faults {spec}"
        line = f"{sys.executable} -m homer.azure.emulator {options} -- sh -c {shlex.quote(command)}"
        kept = environment(self.hub) | {"PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}
        path = f"{Path(sys.executable).parent}:{kept['PATH']}"
        done = subprocess.run(
            line, shell=True, cwd=self.example, env={**kept, "PATH": path},
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        made = _lines(log)[before:]
        refused = [record["refused"] for record in made if "refused" in record]
        return Run(done, [record for record in made if "method" in record], refused)

    def models(self) -> list[str]:
        """The versions of the registered model."""
        file = self.state / "resources.json"
        keys = json.loads(file.read_text()) if file.exists() else {}
        names = (key.partition("/models/acpt-gpt2/versions/") for key in keys)
        return [version for _, _, version in names if version]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def copy_example(folder: Path) -> Path:
    """The example without data and outputs, for scripts that write beside themselves."""
    example = folder / "example"
    ignored = shutil.ignore_patterns("data", "outputs", "__pycache__", ".mypy_cache")
    shutil.copytree(EXAMPLE, example, ignore=ignored)
    return example


def make_emulated(workspace: Workspace, folder: Path) -> Emulated:
    """The example as a user has it after prepare_data.py, and a model named `gpt2` for its jobs."""
    from homer.azure.emulator.emulator import own_workspace
    from homer.azure.emulator.hub import make_hub

    example, state = copy_example(folder), folder / "state"
    (example / "data").mkdir()
    for name in ("training_raw.txt", "validation_raw.txt"):
        shutil.copy(workspace.folder / name, example / "data")
    own_workspace(state)
    return Emulated(example, state, make_hub(folder / "hub", workspace.folder / "training_raw.txt"))
