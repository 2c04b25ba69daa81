"""`aml_deploy.py` as a user runs it: the real SDK, the emulator, the real `score.py`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from azure_runs import Emulated, Run, copy_example
from deploy_runs import register
from finetune_runs import EXAMPLE
from homer.azure.deploy_spec import CONDA_FILE, DeploySpec, new_name
from homer.azure.emulator.emulator import own_workspace
from homer.azure.emulator.state import State
from homer.local_server import SERVING
from score_folder import find_model

GOLDEN = Path(__file__).parent / "golden" / "aml_deploy.json"
_IDS = (
    (r"acpt-gpt2-[0-9a-f]{8}\b", "acpt-gpt2-NAME"),
    (r"(?<=/codes/)[0-9a-f-]{36}", "CODE"),
    (r"(?<=/codes-)[0-9a-f]{8}", "UPLOAD"),
    (r"(?<=CliV2AnonymousEnvironment/versions/)[0-9a-f]+", "HASH"),
    (r'(?<="made_from": ")[0-9a-f]+', "ID"),
    (r'(?<="hash_sha256": ")[0-9a-f]+', "HASH"),
    (r"(?<=/operations/)[0-9a-f-]{36}", "OPERATION"),
)


def normalised(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The bodies that were sent, without what differs from run to run."""
    sent = []
    for record in records:
        body = record.get("json")
        if not body:
            continue
        text = json.dumps({"request": f"{record['method']} {record['path']}", "json": body})
        for pattern, name in _IDS:
            text = re.sub(pattern, name, text)
        made = json.loads(text)
        if "condaFile" in made["json"].get("properties", {}):
            conda = yaml.safe_load(made["json"]["properties"].pop("condaFile"))
            assert conda == yaml.safe_load(CONDA_FILE.read_text())
        sent.append(made)
    return sent


@pytest.fixture(scope="module")
def deployed(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Emulated, Run]:
    """The contract's command line, after a job registered a model, and then `--delete`."""
    folder = tmp_path_factory.mktemp("deploy")
    state = State(folder / "state", own_workspace(folder / "state"))
    register(state, find_model(model_dir))
    state.save()
    emulated = Emulated(copy_example(folder), folder / "state", folder / "hub")
    line = f"python aml_deploy.py --ws_config {emulated.config}"
    return emulated, emulated(f"{line} && echo BETWEEN && {line} --delete")


@pytest.mark.slow
def test_model_is_deployed_asked_and_deleted(deployed: tuple[Emulated, Run]) -> None:
    _, run = deployed
    assert run.done.returncode == 0, run.shown
    made, between, deleted = run.done.stdout.partition("BETWEEN")
    assert between, run.shown
    name = re.search(r"endpoint: (acpt-gpt2-[0-9a-f]{8}),", made)[1]
    assert "model: acpt-gpt2, version 1" in made
    assert re.search(r"^prompt: The king arose and$", made, re.MULTILINE)
    assert re.search(r"^answer: The king arose and.+", made, re.MULTILINE)
    assert "costs money" in made
    assert f"--delete --endpoint_name {name}" in made
    assert f"deleted: {name}" in deleted
    assert "is still there" not in run.done.stdout
    assert run.refused == []


@pytest.mark.slow
def test_ctrl_c_in_a_process_of_its_own_leaves_nothing(model_dir: Path, tmp_path: Path) -> None:
    state = State(tmp_path / "state", own_workspace(tmp_path / "state"))
    register(state, find_model(model_dir))
    state.save()
    emulated = Emulated(copy_example(tmp_path), tmp_path / "state", tmp_path / "hub")
    line = f"python aml_deploy.py --ws_config {emulated.config}"
    run = emulated(line, faults=[{"match": "PUT .*/deployments/blue", "interrupt": True}])
    assert run.done.returncode == 130, run.shown
    assert "is deleted" in run.done.stdout
    assert "is still there" not in run.done.stdout
    assert "Traceback" not in run.done.stderr


@pytest.mark.slow
def test_requests_are_the_golden_ones(deployed: tuple[Emulated, Run]) -> None:
    sent = json.dumps(normalised(deployed[1].requests), indent=1) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(sent)
    assert sent == GOLDEN.read_text()


@pytest.mark.slow
def test_only_the_serving_folder_is_uploaded(deployed: tuple[Emulated, Run]) -> None:
    blobs = [
        r["path"].rpartition("/")[2]
        for r in deployed[1].requests
        if r["method"] == "PUT" and ".blob." in r["host"] and not r["query"].get("comp")
    ]
    assert sorted(blobs) == sorted(
        [".amlignore", *(module.name for module in SERVING.glob("*.py"))]
    )


@pytest.mark.slow
def test_help_loads_no_azure_sdk() -> None:
    code = "import sys, aml_deploy\ntry: aml_deploy.main(['--help'])\nexcept SystemExit: pass\n"
    code += "print('LOADED', sorted({'azure', 'torch', 'transformers'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=EXAMPLE, capture_output=True, text=True, check=True
    )
    assert "LOADED []" in done.stdout
    assert "--ws_config" in done.stdout


def test_name_is_valid_and_differs() -> None:
    names = {new_name() for _ in range(50)}
    assert len(names) == 50
    assert all(DeploySpec(name).problems() == [] for name in names)


@pytest.mark.parametrize(
    "name", ["", "ab", "a" * 33, "1abc", "abc-", "a_bc", "a b c", "äbc", "-abc"]
)
def test_name_that_azure_refuses_is_a_problem(name: str) -> None:
    assert [problem.where for problem in DeploySpec(name).problems()] == ["--endpoint_name"]


def test_conda_file_has_the_tested_versions() -> None:
    pinned = {
        line.partition("==")[0].lower(): line.partition("==")[2].partition("+")[0]
        for line in (EXAMPLE.parents[1] / "constraints.txt").read_text().split()
        if "==" in line
    }
    dependencies = yaml.safe_load(CONDA_FILE.read_text())["dependencies"]
    wanted = [d for d in dependencies[-1]["pip"] if not d.startswith("--")]
    assert len(wanted) >= 5
    for line in wanted:
        name, _, version = line.partition("==")
        assert pinned[name] == version
