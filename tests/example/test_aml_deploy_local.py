"""`aml_deploy.py --local`: the real inference server on this machine, no Azure."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from finetune_runs import EXAMPLE, environment

pytestmark = pytest.mark.slow


def start(tmp_path: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(EXAMPLE / "aml_deploy.py"), "--local", *options],
        # A terminal that cannot show what a model of random weights writes.
        env=environment(tmp_path / "hub") | {"PYTHONIOENCODING": "ascii"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def runs(process: psutil.Process) -> bool:
    # gunicorn may leave a worker that has ended for the system to collect.
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_model_is_served_until_ctrl_c(model_dir: Path, tmp_path: Path) -> None:
    process = start(tmp_path, str(model_dir), "--serve")
    shown = ""
    for line in process.stdout:
        shown += line
        if "Ctrl-C ends it" in line:
            break
    assert re.search(r"^answer: The king arose and.+", shown, re.MULTILINE), shown
    url = re.search(r"^answered by: (http://127\.0\.0\.1:\d+/score)$", shown, re.MULTILINE)[1]
    body = json.dumps({"prompt": "O king", "max_new_tokens": 3, "seed": 7}).encode()
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as answer:
        assert json.load(answer)["seed"] == 7
    servers = psutil.Process(process.pid).children(recursive=True)
    assert servers
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    assert not [server for server in servers if runs(server)]
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=5)


@pytest.mark.parametrize(
    ("folder", "status", "said"),
    [("missing", 2, "there is no such folder"), ("empty", 5, "holds no folder with config.json")],
)
def test_folder_without_a_model_says_so(
    tmp_path: Path, folder: str, status: int, said: str
) -> None:
    (tmp_path / "empty").mkdir()
    process = start(tmp_path, str(tmp_path / folder))
    shown = process.communicate(timeout=120)[0]
    assert process.returncode == status, shown
    assert said in shown
    assert "Traceback" not in shown
