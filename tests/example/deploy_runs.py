"""A workspace of the emulator with a registered model, for the tests of `aml_deploy.py`."""

from __future__ import annotations

import logging
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aml_deploy
import pytest
from homer.azure.emulator import Emulator, Fault
from homer.azure.emulator.assets import Assets
from homer.azure.emulator.state import CONTAINER, State
from score_folder import find_model

STUB = '''\
"""Answers at once: what is tested here is the deployment."""

import json


def init():
    pass


def run(raw):
    prompt = json.loads(raw)["prompt"]
    return {"seed": 42, "answers": [{"text": prompt + " spoke", "new_tokens": 1}]}
'''


def register(state: State, model_dir: Path, job: str = "made_up_job") -> None:
    """Registers a model as a completed job does."""
    folder = state.blobs / CONTAINER / "azureml" / job / "model"
    shutil.copytree(find_model(model_dir), folder)
    Assets(state).register("acpt-gpt2", "custom_model", job, "model")


def stub_serving(folder: Path, code: str = STUB) -> Path:
    """A folder for the deployment to upload, whose server is there in a second."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "score.py").write_text(code)
    return folder


@dataclass
class Deploys:
    """Runs `aml_deploy.py` in this process: starting one for each failure would take minutes.

    Attributes:
        emulator: The workspace.
        output: Reads what was printed.
    """

    emulator: Emulator
    output: pytest.CaptureFixture[str]

    def __call__(self, *options: str, faults: tuple[Fault, ...] = ()) -> tuple[int, str]:
        """Runs it; returns its exit status and all that it printed."""
        self.emulator.faults[:] = faults
        self.output.readouterr()
        config = ["--ws_config", str(self.emulator.workspace.path)]
        before = signal.getsignal(signal.SIGTERM)
        try:
            status = aml_deploy.main([*config, *options])
        except SystemExit as stop:
            status = int(stop.code or 0)
        finally:
            signal.signal(signal.SIGTERM, before)
            logging.disable(logging.NOTSET)
        printed = self.output.readouterr()
        return status, printed.out + printed.err

    @property
    def endpoints(self) -> list[str]:
        """The endpoints that are there, and cost money."""
        return self.emulator.endpoints.running()

    def asked(self, method: str, end: str) -> list[dict[str, Any]]:
        """The requests whose path ends so."""
        return [
            r
            for r in self.emulator.requests
            if r.get("method") == method and r["path"].endswith(end)
        ]


def interrupt_this_process() -> None:
    """What Ctrl-C does."""
    os.kill(os.getpid(), signal.SIGINT)
