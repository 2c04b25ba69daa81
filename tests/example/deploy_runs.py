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
from homer.azure.emulator.protocol import Answer, Request
from homer.azure.emulator.state import CONTAINER, State

AZ_DELETE = r"az ml online-endpoint delete --name {} --yes --subscription \S+ --resource-group \S+ "
"""The line that deletes an endpoint, as a regular expression."""
SCORE = """\
def init():
    raise ValueError("no such weights")


def run(raw):
    pass
"""
"""Code whose server does not start."""


class AtOnce:
    """A deployment's server that is there at once: what is tested here is the deployment."""

    def __init__(
        self, state: State, deployment: dict[str, Any], folder: Path, settings: Any
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / "log.txt"
        self.log.write_text("it is there")

    def healthy(self) -> bool:
        return True

    def ended(self) -> bool:
        return False

    def score(self, request: Request) -> Answer:
        text = request.json["prompt"] + " spoke"
        return Answer(200, {"seed": 42, "answers": [{"text": text, "new_tokens": 1}]})

    def stop(self) -> None:
        pass


class Never(AtOnce):
    """A server that does not get ready."""

    def healthy(self) -> bool:
        return False


def operation(match: str, code: str, message: str = "it said so") -> Fault:
    """A long operation that fails."""
    return Fault(match, operation={"code": code, "message": message})


def register(state: State, model: Path, job: str = "made_up_job") -> None:
    """Registers a folder as a completed job does its output."""
    shutil.copytree(model, state.blobs / CONTAINER / "azureml" / job / "model")
    Assets(state).register("acpt-gpt2", "custom_model", job, "model")


def serving_folder(folder: Path) -> Path:
    """A folder for the deployment to upload."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "score.py").write_text(SCORE)
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
        try:
            status = aml_deploy.main([*config, *options])
        except SystemExit as stop:
            status = int(stop.code or 0)
        finally:
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
