"""Going on after an interruption, and the checkpoints of an earlier run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from finetune_runs import STEPS, Run, Runs, Workspace, read_metrics

MIDDLE = f"checkpoint-{STEPS // 2}"
LAST = f"checkpoint-{STEPS}"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def interrupted(runs: Runs, output: Path) -> Path:
    """A copy of the plain run as it was before its last checkpoint was complete."""
    shutil.copytree(runs("no_acc").output, output)
    shutil.rmtree(output / "checkpoints" / LAST)
    (output / "metrics.json").unlink()
    return output


@pytest.fixture(scope="module")
def resumed(runs: Runs, workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Goes on from the middle, beside a newer folder that a killed run left incomplete."""
    output = interrupted(runs, tmp_path_factory.mktemp("resumed") / "run")
    checkpoints = output / "checkpoints"
    shutil.copytree(checkpoints / MIDDLE, checkpoints / "checkpoint-99")
    (checkpoints / "checkpoint-99" / "trainer_state.json").unlink()
    done = workspace.finetune(output, resume=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    return Run(output, done)


def test_resume_takes_the_newest_complete_checkpoint(resumed: Run) -> None:
    used = str(resumed.output / "checkpoints" / MIDDLE)
    assert f"resuming from {used}" in resumed.done.stdout
    assert resumed.metrics["resumed_from"] == used
    assert f"step     {STEPS // 2 + 1}/{STEPS}  loss" in resumed.done.stdout
    assert f"step     {STEPS // 2}/{STEPS}  loss" not in resumed.done.stdout


def test_resumed_run_equals_the_uninterrupted_one(resumed: Run, runs: Runs) -> None:
    whole = runs("no_acc").metrics
    assert resumed.metrics["steps"] == STEPS
    steps, losses = zip(*resumed.metrics["loss_history"], strict=True)
    assert steps == tuple(step for step, _ in whole["loss_history"])
    assert losses == pytest.approx([loss for _, loss in whole["loss_history"]], rel=1e-4)
    assert resumed.metrics["eval_loss"] == pytest.approx(whole["eval_loss"], rel=1e-4)


def test_resumed_run_saves_the_same_weights(resumed: Run, runs: Runs) -> None:
    import torch
    from safetensors.torch import load_file

    whole = load_file(runs("no_acc").output / "model.safetensors")
    again = load_file(resumed.output / "model.safetensors")
    torch.testing.assert_close(again, whole, rtol=1e-4, atol=1e-6)


def test_resume_without_a_checkpoint_starts_anew_and_says_so(
    workspace: Workspace, tmp_path: Path
) -> None:
    done = workspace.finetune(tmp_path, resume=True, max_steps=2)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "no complete checkpoint yet: starting anew" in done.stdout
    assert "resuming from" not in done.stdout
    metrics = read_metrics(tmp_path)
    assert metrics["resumed_from"] is None
    assert [step for step, _ in metrics["loss_history"]] == [1, 2]


def test_resume_of_a_finished_run_evaluates_and_saves_its_model(
    runs: Runs, workspace: Workspace, tmp_path: Path
) -> None:
    """As a run that lost its machine between the last checkpoint and the end."""
    whole = runs("no_acc")
    output = tmp_path / "run"
    shutil.copytree(whole.output / "checkpoints", output / "checkpoints")
    state = output / "checkpoints" / LAST / "trainer_state.json"
    content = json.loads(state.read_text())
    content["log_history"] = [e for e in content["log_history"] if "eval_loss" not in e]
    state.write_text(json.dumps(content))
    done = workspace.finetune(output, resume=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "all steps are done: saving the model of this checkpoint" in done.stdout
    assert f"step     {STEPS + 1}/{STEPS}" not in done.stdout
    metrics = read_metrics(output)
    assert metrics["loss_history"] == whole.metrics["loss_history"]
    assert metrics["eval_loss"] == pytest.approx(whole.metrics["eval_loss"], rel=1e-5)
    for name in ("model.safetensors", "strategy.json", "config.json", "tokenizer.json"):
        assert (output / name).read_bytes() == (whole.output / name).read_bytes()


def test_resume_with_fewer_steps_than_the_checkpoint_has_is_one_error(
    runs: Runs, workspace: Workspace, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(runs("no_acc").output, output)
    before = contents(output)
    done = workspace.finetune(output, resume=True, max_steps=STEPS - 2)
    assert done.returncode == 2
    assert "nothing is left to train" in done.stderr
    assert contents(output) == before


@pytest.mark.parametrize("run_config", ["ds", "ds_ort"])
def test_resume_with_another_optimizer_format_is_one_error(
    runs: Runs, workspace: Workspace, tmp_path: Path, run_config: str
) -> None:
    output = interrupted(runs, tmp_path / "run")
    before = contents(output)
    done = workspace.finetune(output, resume=True, run_config=run_config)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "Cannot resume: 1 problem found." in done.stderr
    for name in ("'no_acc'", f"'{run_config}'", MIDDLE):
        assert name in done.stderr
    assert contents(output) == before


def test_earlier_checkpoints_are_neither_used_nor_deleted_unasked(
    runs: Runs, tmp_path: Path, workspace: Workspace, call: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    output = interrupted(runs, tmp_path / "run")
    before = contents(output)
    assert call(workspace.options(output)) == 2
    error = capsys.readouterr().err
    assert str(output / "checkpoints") in error
    assert "--resume" in error
    assert "--overwrite" in error
    assert contents(output) == before


def test_overwrite_discards_earlier_checkpoints(
    runs: Runs, workspace: Workspace, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    shutil.copytree(runs("no_acc").output, output)
    done = workspace.finetune(output, overwrite=True, max_steps=2, save_steps=1)
    assert done.returncode == 0, done.stderr[-4000:]
    kept = {path.name for path in (output / "checkpoints").iterdir()}
    assert kept == {"checkpoint-1", "checkpoint-2"}
    assert read_metrics(output)["steps"] == 2


def test_overwrite_deletes_nothing_if_training_is_refused(
    runs: Runs, workspace: Workspace, tmp_path: Path
) -> None:
    output = interrupted(runs, tmp_path / "run")
    before = contents(output)
    done = workspace.finetune(output, overwrite=True, run_config="ort", precision="bf16")
    assert done.returncode == 2, done.stderr[-4000:]
    assert contents(output) == before


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
@pytest.mark.parametrize("file", ["optimizer.pt", "trainer_state.json"])
def test_full_disk_while_saving_leaves_checkpoints_to_resume(
    runs: Runs, workspace: Workspace, tmp_path: Path, file: str
) -> None:
    output = interrupted(runs, tmp_path / "run")
    checkpoints = output / "checkpoints"
    earlier = contents(checkpoints / MIDDLE)
    (checkpoints / LAST).mkdir()
    # The system itself answers ENOSPC to what is written there.
    (checkpoints / LAST / file).symlink_to("/dev/full")
    done = workspace.finetune(output, resume=True)
    assert done.returncode == 2, done.stderr[-4000:]
    assert "Traceback" not in done.stderr
    assert "No space left" in done.stderr
    assert "free some space" in done.stderr
    assert contents(checkpoints / MIDDLE) == earlier

    (checkpoints / LAST / file).unlink()
    done = workspace.finetune(output, resume=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"resuming from {checkpoints / MIDDLE}" in done.stdout
    assert read_metrics(output)["steps"] == STEPS
