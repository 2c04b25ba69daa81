"""The contract's command line, unmodified, from a shell, with the real SDK against the emulator."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from azure_runs import Emulated, Run
from finetune_runs import environment

_LINE = (
    "python aml_finetune.py --ws_config {config} --compute gpu8 --run_config {run_config} "
    "--nnode {nnode} --nproc_per_node {processes} --block_size 64 --batch_size 2 --max_steps 4"
)
# Any checkpoint: the oldest is deleted again while the job runs.
_PREEMPT = {"preempt": "checkpoints/checkpoint-*/trainer_state.json"}
_PREEMPTED = [{"match": "PUT .*/jobs/", "job": _PREEMPT}]


def submitted(run: Run) -> dict[str, Any]:
    """The job that was sent, with its name."""
    puts = [r for r in run.requests if r["method"] == "PUT" and "/jobs/" in r["path"]]
    assert len(puts) == 1
    return {"name": puts[0]["path"].rsplit("/", 1)[1], **puts[0]["json"]["properties"]}


def output_of(emulated: Emulated, name: str) -> Path:
    return emulated.state / "blobs" / "azureml-blobstore-1" / "azureml" / name


def log_of(emulated: Emulated, name: str) -> str:
    logs = emulated.state / "blobs" / "azureml-blobstore-1" / "logs" / name / "user_logs"
    return (logs / "std_log_process_0.txt").read_text()


def check(emulated: Emulated, run_config: str, nnode: int, processes: int, **more: Any) -> Run:
    """Runs the line; the model must be trained for real and registered."""
    before = len(emulated.models())
    names = {"run_config": run_config, "nnode": nnode, "processes": processes}
    run = emulated(_LINE.format(config=emulated.config, **names), **more)
    job = submitted(run) if run.done.returncode == 0 else {"name": ""}
    log = log_of(emulated, job["name"]) if job["name"] else ""
    assert run.done.returncode == 0, run.shown
    assert len(emulated.models()) == before + 1, run.shown + log
    model = output_of(emulated, job["name"]) / "model"
    metrics = json.loads((model / "metrics.json").read_text())
    assert metrics["strategy"]["strategy"] == run_config
    assert metrics["strategy"]["status"] == "engaged"
    assert metrics["world_size"] == nnode * processes
    assert metrics["steps"] == 4
    assert (model / "model.safetensors").is_file()
    assert run.refused == []
    for said in (job["name"], "https://ml.azure.com/runs/", "python aml_deploy.py --ws_config"):
        assert said in run.done.stdout
    return run


@pytest.mark.slow
@pytest.mark.distributed
def test_contract_line_trains_and_registers_on_two_nodes(emulated: Emulated) -> None:
    run = check(emulated, "ds_ort", nnode=2, processes=1)
    assert "not Azure" in run.done.stdout
    # The package that ran is the one that was uploaded.
    uploaded = [r["path"] for r in run.requests if r["path"].endswith("acpt_trainer/registry.py")]
    assert uploaded


@pytest.mark.slow
def test_preempted_job_goes_on_from_its_newest_complete_checkpoint(emulated: Emulated) -> None:
    run = check(emulated, "no_acc", nnode=1, processes=1, faults=_PREEMPTED)
    name = submitted(run)["name"]
    log = log_of(emulated, name)
    first, _, second = log.partition("the node was taken away")
    assert "no complete checkpoint yet: starting anew" in first
    assert "resuming from" in second
    assert f"{output_of(emulated, name) / 'checkpoints'}/checkpoint-" in second


@pytest.mark.long
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("run_config", "processes"), [("no_acc", 2), ("ort", 1), ("ds", 2), ("ds_ort", 2)]
)
def test_contract_lines_from_training_to_deletion(
    emulated: Emulated, run_config: str, processes: int
) -> None:
    """Both lines of the contract: trained, registered, deployed, asked, and deleted again."""
    check(emulated, run_config, nnode=1, processes=processes)
    deployed = emulated(f"python aml_deploy.py --ws_config {emulated.config}")
    assert deployed.done.returncode == 0, deployed.shown
    made = [r for r in deployed.requests if r["method"] == "PUT" and "/deployments/" in r["path"]]
    newest = emulated.models()[-1]
    assert made[0]["json"]["properties"]["model"].endswith(f"/models/acpt-gpt2/versions/{newest}")
    assert [r["status"] for r in deployed.requests if r["path"] == "/score"] == [200]
    assert "is still there" in deployed.done.stdout
    deleted = emulated(f"python aml_deploy.py --ws_config {emulated.config} --delete")
    assert deleted.done.returncode == 0, deleted.shown
    assert [r for r in deleted.requests if r["method"] == "DELETE"]
    assert "is still there" not in deleted.done.stdout
    assert deployed.refused == deleted.refused == []


@pytest.mark.long
@pytest.mark.distributed
def test_local_trains_here_without_azure(emulated: Emulated) -> None:
    options = "--block_size 64 --batch_size 2 --max_steps 4 --run_config ds --nproc_per_node 2"
    run = emulated(f"HF_HUB_OFFLINE=1 python aml_finetune.py {options} --local")
    assert run.done.returncode == 0, run.shown
    assert run.requests == []
    (model,) = (emulated.example / "outputs" / "local").glob("ds-*/model")
    metrics = json.loads((model / "metrics.json").read_text())
    assert (metrics["world_size"], metrics["strategy"]["status"]) == (2, "engaged")


@pytest.mark.long
@pytest.mark.distributed
def test_ctrl_c_ends_a_local_run_with_its_workers(emulated: Emulated) -> None:
    options = "--block_size 64 --batch_size 2 --max_steps 100000 --nproc_per_node 2 --local"
    with subprocess.Popen(
        [sys.executable, "aml_finetune.py", *options.split()],
        cwd=emulated.example,
        env=environment(emulated.hub),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert any("running here" in line for line in process.stdout)
        # The strategy's first words: both workers are there.
        assert any("no_acc" in line for line in process.stdout)
        started = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    assert process.returncode == 130
    assert len(started) >= 3
    assert psutil.wait_procs(started, timeout=10)[1] == []
