"""What the user of a script sees when `ort` refuses a model: one message and a status."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from strategy_runs import launch

SCRIPT = Path(__file__).with_name("branching_script.py")


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    return launch([str(SCRIPT), "ort", str(tmp_path_factory.mktemp("ort"))], 1, timeout=120)


def sums(output: str) -> tuple[str, str]:
    """The weights' checksums before and after training, as the script says them."""
    found = dict(re.findall(r"^(before|after) (.*)$", output, re.MULTILINE))
    return found["before"], found["after"]


def test_script_with_a_branch_on_data_ends_with_one_message(
    refused: subprocess.CompletedProcess[str],
) -> None:
    assert refused.returncode == 2, refused.stdout + refused.stderr
    assert refused.stderr.count("error:") == 1
    assert "Traceback" not in refused.stdout + refused.stderr
    line = 1 + SCRIPT.read_text().splitlines().index("        if x.sum() > 0:")
    message = refused.stderr[refused.stderr.index("error:") :]
    assert message.startswith("error: ONNX Runtime cannot train Branching: ")
    assert re.search(rf"where: gate \(Gate\).*{re.escape(str(SCRIPT))}:{line}\b", message)
    assert re.search(r"fix:   .*strategy='no_acc'", message)


def test_script_whose_model_is_refused_leaves_the_weights(
    refused: subprocess.CompletedProcess[str], tmp_path: Path
) -> None:
    before, after = sums(refused.stdout)
    assert before == after
    trained = launch([str(SCRIPT), "no_acc", str(tmp_path)], 1, timeout=120)
    assert trained.returncode == 0, trained.stderr
    start, end = sums(trained.stdout)
    assert start == before
    assert end != start, "the checksum would not tell"
