"""The job and the workspace's config, as far as they need no Azure; `--dry_run` and `--local`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import aml_finetune
import pytest
import yaml
from finetune_runs import EXAMPLE, Workspace, environment
from homer.azure import staging
from homer.azure.errors import not_installed
from homer.azure.job import RUN_CONFIGS, JobSpec
from homer.azure.workspace import load_workspace

from acpt_trainer import ConfigurationError, available_strategies

GOOD = {
    "subscription_id": "00000000-0000-0000-0000-000000000001",
    "resource_group": "group",
    "workspace_name": "place",
}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(GOOD))
    return path


@pytest.fixture
def _data(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "DATA", workspace.folder)


def call(*options: str) -> int:
    try:
        return aml_finetune.main(options)
    except SystemExit as stop:
        return int(stop.code or 0)


def test_defaults_are_the_contracts() -> None:
    args = aml_finetune.parse(["--ws_config", "c.json", "--compute", "gpu"])
    assert aml_finetune.spec_of(args) == JobSpec("gpu", "no_acc", 1, 8, 1024, 8, 2000)


def test_run_configs_are_registered_strategies() -> None:
    assert set(RUN_CONFIGS) <= set(available_strategies())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"nnode": 0}, "--nnode"),
        ({"nproc_per_node": -1}, "--nproc_per_node"),
        ({"batch_size": 0}, "--batch_size"),
        ({"max_steps": 0}, "--max_steps"),
        ({"block_size": 1}, "--block_size"),
        ({"block_size": 1025}, "--block_size"),
        ({"run_config": "dss"}, "--run_config"),
    ],
)
def test_job_that_cannot_run_is_a_problem(changes: dict[str, Any], named: str) -> None:
    found = JobSpec(**{"compute": "gpu", **changes}).problems()
    assert [problem.where for problem in found] == [named]


def test_command_is_what_the_training_script_accepts() -> None:
    from homer import options

    spec = JobSpec("gpu", "ds_ort", 2, 4, 512, 3, 700)
    command = spec.command().split()
    assert command[:2] == ["python", "finetune.py"]
    args = options.parse(command[2:])
    assert (args.run_config, args.block_size, args.batch_size) == ("ds_ort", 512, 3)
    assert (args.max_steps, args.resume) == (700, "auto")
    assert str(args.output_dir) == "${{outputs.model}}"
    assert str(args.checkpoint_dir) == "${{outputs.checkpoints}}"


def test_local_command_is_the_same_under_torchrun() -> None:
    spec = JobSpec("", "ds", 1, 2)
    local = spec.local_command("python", "M", "C")
    assert local[1:4] == ["-m", "torch.distributed.run", "--standalone"]
    assert local[local.index("--nproc_per_node") + 1] == "2"
    remote = spec.command().replace("${{outputs.model}}", "M")
    remote = remote.replace("${{outputs.checkpoints}}", "C")
    assert local[local.index("finetune.py") :] == remote.split()[1:]


def test_only_ort_needs_its_cuda_build() -> None:
    lists = {name: staging.requirements(JobSpec("gpu", name)) for name in RUN_CONFIGS}
    with_ort = {name for name, lines in lists.items() if any("onnxruntime" in x for x in lines)}
    assert with_ort == {"ort", "ds_ort"}
    assert all(any(x.startswith("deepspeed") for x in lines) for lines in lists.values())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, ["there is no such file"]),
        ("{", ["not a JSON file"]),
        ("[]", ["not a JSON object"]),
        ("{}", ["`subscription_id` is missing", "`resource_group`", "`workspace_name`"]),
        (json.dumps(GOOD | {"workspace_name": " "}), ["`workspace_name` must be a string"]),
        (json.dumps(GOOD | {"resource_group": 3}), ["`resource_group` must be a string"]),
        (json.dumps(GOOD | {"subscription_id": "<id>"}), ["is not an id"]),
    ],
)
def test_workspace_config_says_what_is_wrong(
    tmp_path: Path, content: str | None, said: list[str]
) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError) as caught:
        load_workspace(path)
    assert len(caught.value.problems) == len(said)
    for words in (*said, f"--ws_config {path}"):
        assert words in str(caught.value)


def test_workspace_config_of_a_parent_folder_is_not_taken(tmp_path: Path, config: Path) -> None:
    (tmp_path / "below").mkdir()
    with pytest.raises(ConfigurationError, match="no such file"):
        load_workspace(tmp_path / "below" / config.name)


def test_help_loads_no_azure(tmp_path: Path) -> None:
    lines = (
        "import sys, aml_finetune\n"
        "try: aml_finetune.main(['--help'])\n"
        "except SystemExit: pass\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(loaded & {'azure', 'torch', 'transformers', 'msal', 'requests'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", lines], cwd=EXAMPLE, env=environment(tmp_path),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"


def test_missing_sdk_is_told_with_all_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(aml_finetune, "not_installed", lambda *_: not_installed("no.such", "aml"))
    assert call("--ws_config", str(tmp_path / "no.json"), "--compute", "gpu") == 2
    error = capsys.readouterr().err
    assert "no.json" in error
    assert "pip install 'acpt-trainer[aml]'" in error


@pytest.mark.parametrize("module", ["no_such", "no_such.part", "json.no_such"])
def test_module_that_is_missing_is_a_problem(module: str) -> None:
    assert len(not_installed(module, "aml")) == 1
    assert not_installed("json.decoder", "aml") == []


def test_workspace_and_compute_are_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--run_config", "ort") == 2
    assert "--ws_config, --compute" in capsys.readouterr().err


@pytest.mark.usefixtures("_data")
def test_dry_run_writes_what_az_submits(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(aml_finetune, "HERE", tmp_path)
    options = ("--ws_config", str(config), "--compute", "gpu", "--run_config", "ort", "--dry_run")
    assert call(*options) == 0
    written = tmp_path / "outputs" / "aml_job"
    job = yaml.safe_load((written / "job.yml").read_text())
    assert job == JobSpec("gpu", "ort").to_yaml()
    assert job["outputs"]["model"]["name"] == "acpt-gpt2"
    assert (written / job["code"] / "finetune.py").is_file()
    assert (written / job["code"] / "acpt_trainer" / "__init__.py").is_file()
    assert (written / job["code"] / "data" / "training_raw.txt").is_file()
    recipe = written / job["environment"]["build"]["path"]
    assert {path.name for path in recipe.iterdir()} == {
        "Dockerfile", "requirements.txt", "constraints.txt",
    }  # fmt: skip
    shown = capsys.readouterr().out
    assert f"az ml job create -f {written / 'job.yml'} --subscription" in shown
    assert call(*options) == 0


def test_image_is_pinned_and_copies_what_is_staged() -> None:
    lines = (EXAMPLE / "environment" / "Dockerfile").read_text().splitlines()
    (base,) = (line.split()[1] for line in lines if line.startswith("FROM "))
    assert re.fullmatch(r"mcr\.microsoft\.com/aifx/acpt/[a-z0-9-]+:biweekly\.\d{6}\.\d", base)
    copied = [name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]]
    assert sorted(copied) == ["constraints.txt", "requirements.txt"]
    assert "python=3.11" in "".join(lines)


def test_how_to_has_every_option() -> None:
    page = EXAMPLE.parents[1] / "docs" / "how-to" / "azure.md"
    shown = subprocess.run(
        [sys.executable, "aml_finetune.py", "--help"], cwd=EXAMPLE, env=environment(Path("none")),
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    options = set(re.findall(r"^  (--\w+)", shown, re.MULTILINE))
    assert len(options) >= 12
    assert {name for name in options if f"| `{name}" not in page.read_text()} == set()


def test_all_problems_come_in_one_message_without_azure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(staging, "DATA", tmp_path / "nothing")
    options = ["--ws_config", str(tmp_path / "no.json"), "--compute", "gpu", "--nnode", "0"]
    assert call(*options) == 2
    error = capsys.readouterr().err
    assert "Cannot submit the job: 4 problems found." in error
    for said in ("no.json", "--nnode", "training_raw.txt", "validation_raw.txt"):
        assert said in error


@pytest.mark.usefixtures("_data")
def test_local_runs_the_command_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    ran: list[list[str]] = []

    def run(command: list[str], cwd: Path) -> int:
        ran.append(command)
        return len(ran) - 1

    monkeypatch.setattr(aml_finetune.foreground, "run", run)
    monkeypatch.setattr(aml_finetune, "HERE", tmp_path)
    assert call("--local", "--run_config", "ds", "--nproc_per_node", "2") == 0
    model = ran[0][ran[0].index("--output_dir") + 1]
    checkpoints = ran[0][ran[0].index("--checkpoint_dir") + 1]
    assert ran[0] == JobSpec("", "ds", 1, 2).local_command(sys.executable, model, checkpoints)
    assert f"aml_deploy.py --local {model}" in capsys.readouterr().out
    assert call("--local") == 5
    assert call("--local", "--nnode", "2") == 2
    assert len(ran) == 2
