"""`acpt-trainer bench` as a user runs it: workers in processes of their own, one killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from strategy_runs import launch

MAIN = ["-c", "from acpt_trainer.cli import main; main()", "bench"]

BREAKS = """
from acpt_trainer import register_strategy
from acpt_trainer.strategies.eager import EagerStrategy

@register_strategy("breaks")
class Breaks(EagerStrategy):
    def wrap_model(self, model):
        raise RuntimeError("made to break")
"""


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("ACPT_TRAINER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "made_up_breaks.py").write_text(BREAKS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    config = tmp_path / "config.json"
    made = {"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 16}
    config.write_text(json.dumps({**made, "vocab_size": 32, "bos_token_id": 1, "eos_token_id": 2}))
    shape = ["--batch-size", "2", "--block-size", "16", "--warmup_steps", "1"]
    return [*MAIN, "--model", str(config), "--output_dir", str(tmp_path / "out"), *shape]


def workers(folder: Path) -> list[psutil.Process]:
    """Processes that serve a benchmark in a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(str(folder) in part for part in process.cmdline()) and (
                "acpt_trainer.measure.worker" in process.cmdline()
            ):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.long
def test_bench_goes_on_where_it_was_killed(command: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    command += ["--strategies", "no_acc,breaks,ort", "--import", "made_up_breaks"]
    command += ["--steps", "6", "--rounds", "3"]
    first = out / "turns" / "1-no_acc" / "turn-0.json"
    with subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as killed:  # fmt: skip
        until = time.monotonic() + 300
        while not first.exists() and killed.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        killed.send_signal(signal.SIGKILL)
    assert first.exists(), (out / "turns" / "1-no_acc" / "log.txt").read_text()
    before = first.read_text()
    psutil.wait_procs(workers(out), timeout=30)
    assert not workers(out)  # they end by themselves

    done = launch([*command, "--json"], 1)
    assert done.returncode == 0, done.stderr[-3000:]
    assert first.read_text() == before
    found = json.loads((out / "results.json").read_text())
    assert found == json.loads(done.stdout)
    status = {row["strategy"]: row["status"] for row in found["rows"]}
    assert status == {"no_acc": "ok", "breaks": "failed", "ort": "ok"}
    details = dict(zip(status, found["details"], strict=True))
    assert "made to break" in details["breaks"]["reason"]
    for row in found["rows"]:
        if row["status"] == "ok":
            assert None not in [v for k, v in row.items() if k != "break_even_steps"]
            assert details[row["strategy"]]["report"]["status"] == "engaged"
            assert set(details[row["strategy"]]["split_seconds"]) == {
                "data", "forward", "backward", "optimizer",
            }  # fmt: skip
    # What was killed makes its steps again: the curves are as long as one run's.
    assert len(details["no_acc"]["losses"]) == len(details["ort"]["losses"])
    # No dropout is the same in both, and the loss is near: one more step would not be.
    assert details["no_acc"]["losses"][0] == pytest.approx(details["ort"]["losses"][0], rel=0.05)
    assert {"speedup.png", "loss.png", "memory.png", "results.md"} <= {
        f.name for f in out.iterdir()
    }
    assert not workers(out)

    again = launch(command, 1)
    assert again.returncode == 0
    assert "everything is measured already" in again.stderr


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_bench_that_is_told_to_end_leaves_no_worker(
    command: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    command += ["--strategies", "no_acc,ddp", "--nproc", "2", "--steps", "400", "--rounds", "4"]
    first = tmp_path / "out" / "turns" / "1-no_acc" / "turn-0.json"
    with subprocess.Popen(
        [sys.executable, *command, "--no_pictures"], stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as told:  # fmt: skip
        until = time.monotonic() + 300
        while not first.exists() and told.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        told.send_signal(number)
        said = told.communicate(timeout=120)[1]
    assert told.returncode == 128 + number
    assert said.rstrip().endswith("the same command goes on from here")
    assert first.exists()
    assert not workers(tmp_path)


@pytest.mark.slow
@pytest.mark.distributed
def test_bench_measures_several_processes(command: list[str], tmp_path: Path) -> None:
    command += ["--strategies", "no_acc,ds", "--nproc", "2", "--steps", "2", "--rounds", "1"]
    done = launch([*command, "--json", "--no_pictures"], 1)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    ddp, ds = found["details"]
    assert [row["status"] for row in found["rows"]] == ["ok", "ok"]
    assert ddp["report"]["parallel"] == "DistributedDataParallel"
    assert ds["report"]["parallel"] == "DeepSpeedEngine"
    assert ds["optimizer_state_bytes"] <= 0.55 * ddp["optimizer_state_bytes"]
    assert found["rows"][1]["speedup"] > 0
    assert not list((tmp_path / "out").glob("*.png"))


def test_bench_mistakes_are_named_together(command: list[str], tmp_path: Path) -> None:
    done = launch([*command, "--strategies", "no_acc,ortt,no_acc:fp8", "--steps", "2"], 1)
    assert done.returncode == 2
    assert "3 problems found" in done.stderr
    assert "did you mean 'ort'" in done.stderr
    assert not (tmp_path / "out").exists()
