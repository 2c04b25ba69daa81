"""Runs of the training script on a tiny model, each in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from warm_python import WarmPython

import acpt_trainer

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "homer_gpt2"
SOURCE = Path(acpt_trainer.__file__).resolve().parents[1]
BLOCK_SIZE = 16
STEPS = 8
CONFIG = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 16,
    "n_positions": 64,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "resid_pdrop": 0.0,
}
_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_SETTINGS = ("HF_", "TRANSFORMERS_", "ACCELERATE_", "ORTMODULE_", "FSDP_", "DS_", "HOMER_CACHE")


def environment(hub_cache: Path) -> dict[str, str]:
    """One thread, the CPU, no network, and no setting of whoever runs the tests."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _LAUNCHER and not name.startswith(_SETTINGS)
    }
    return kept | {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HOME": str(hub_cache),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(SOURCE),
    }


def flags(options: dict[str, Any]) -> list[str]:
    """Options as a command line: True is a bare flag, None leaves one out."""
    made = []
    for name, value in options.items():
        if value is not None:
            made += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return made


@dataclass(frozen=True)
class Workspace:
    """The inputs of all runs.

    Attributes:
        folder: Holds the texts, the tokenizer, `tiny.json` and the cache of the data sets.
    """

    folder: Path

    def options(self, output: Path, **changes: Any) -> list[str]:
        """A command line for a run of a few seconds, with changes by name."""
        options: dict[str, Any] = {
            "from_scratch": True,
            "config_path": self.folder / "tiny.json",
            "tokenizer_path": self.folder / "tokenizer",
            "train_path": self.folder / "training_raw.txt",
            "validation_path": self.folder / "validation_raw.txt",
            "block_size": BLOCK_SIZE,
            "batch_size": 2,
            "max_steps": STEPS,
            "eval_steps": STEPS,
            "save_steps": STEPS // 2,
            "logging_steps": 1,
            "learning_rate": 1e-2,
            # `auto` is bf16 on some CPUs, and the losses are compared.
            "precision": "fp32",
            "preprocessing_num_workers": 1,
            "output_dir": output,
        }
        return flags(options | changes)

    def python(
        self, *command: str, processes: int = 1, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Runs a Python command line in the workspace, under torchrun for several processes."""
        launcher = [sys.executable]
        if processes > 1:
            launcher += ["-m", "torch.distributed.run", "--standalone"]
            launcher += ["--nproc_per_node", str(processes)]
        return subprocess.run(
            [*launcher, *command],
            env=environment(self.folder / "hub"),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def finetune(
        self, output: Path, processes: int = 1, **changes: Any
    ) -> subprocess.CompletedProcess[str]:
        """Runs the training script; quickly, as the libraries are imported already."""
        command = [str(EXAMPLE / "finetune.py"), *self.options(output, **changes)]
        env = environment(self.folder / "hub")
        return self._warm_python(command, env=env, cwd=self.folder, processes=processes)

    @cached_property
    def _warm_python(self) -> WarmPython:
        # With what the script sets before it imports.
        set_first = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        return WarmPython(environment(self.folder / "hub") | set_first)


def make_workspace(folder: Path) -> Workspace:
    """Prepares the generated sample and shortens it: evaluation takes most of a tiny run."""
    made = Workspace(folder)
    script = str(EXAMPLE / "prepare_data.py")
    options = {"source": "sample", "output_dir": folder, "tokenizer_vocab_size": 300}
    done = made.python(script, *flags(options))
    assert done.returncode == 0, done.stdout + done.stderr
    for name, lines in (("training_raw.txt", 300), ("validation_raw.txt", 20)):
        text = (folder / name).read_text(encoding="utf-8").splitlines(keepends=True)
        (folder / name).write_text("".join(text[:lines]), encoding="utf-8")
    (folder / "tiny.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return made


def read_metrics(output: Path) -> dict[str, Any]:
    """The metrics.json of a run."""
    return json.loads((output / "metrics.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Run:
    """A run that ended well.

    Attributes:
        output: Its output folder.
        done: The process.
    """

    output: Path
    done: subprocess.CompletedProcess[str]

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return read_metrics(self.output)


class Runs:
    """Trains each run config once. Tests copy what they change."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._made: dict[str, Run] = {}

    def __call__(self, run_config: str, processes: int = 1) -> Run:
        """A run of `STEPS` steps with a checkpoint in the middle and one at the end.

        The processes share a batch of 2, so that all run configs see the same data.
        """
        if run_config not in self._made:
            output = self.workspace.folder / "runs" / run_config
            changes = {"run_config": run_config, "batch_size": 2 // processes}
            command = [str(EXAMPLE / "finetune.py"), *self.workspace.options(output, **changes)]
            # As a user starts it: the imports of the libraries are part of the run.
            done = self.workspace.python(*command, processes=processes)
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
            self._made[run_config] = Run(output, done)
        return self._made[run_config]
