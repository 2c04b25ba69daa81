"""Ctrl-C at any time of a deployment: nothing is left, or the line that deletes it was printed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import homer.azure.emulator.endpoints as endpoints
import pytest
from azure_runs import copy_example
from deploy_runs import AtOnce, register
from finetune_runs import environment
from homer.azure.emulator import Emulator, Fault

pytestmark = pytest.mark.long


@pytest.mark.parametrize("seed", range(12))
def test_ctrl_c_at_any_time_leaves_nothing_unsaid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(endpoints, "Server", AtOnce)
    # Counted from the first thing that is made; before it there is nothing to delete.
    first = Fault(r"PUT .*/onlineEndpoints/[^/]+$", interrupt=True)
    emulator = Emulator(tmp_path / "state", faults=[first])
    (tmp_path / "model").mkdir()
    register(emulator.state, tmp_path / "model")
    command = [sys.executable, "aml_deploy.py", "--ws_config", str(emulator.workspace.path)]
    with emulator:
        process = subprocess.Popen(
            command, cwd=copy_example(tmp_path),
            env=environment(tmp_path / "hub") | emulator.environment(),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        delay = random.Random(seed).uniform(0, 1.2)
        timer = threading.Timer(delay, os.kill, (process.pid, signal.SIGINT))
        emulator.interrupt = timer.start
        shown = process.communicate(timeout=300)[0]
        timer.cancel()
        left = emulator.endpoints.running()
    assert first.times == 0, shown
    if "its key: " in shown:
        # Too late: all was done, and it is there, as asked.
        assert len(left) == 1, shown
        return
    assert process.returncode == 130, shown
    assert "Traceback" not in shown
    # After the answer it is there, and how to delete it was said before.
    assert left == [] or ("answer: " in shown and f"--endpoint_name {left[0]}" in shown), shown
