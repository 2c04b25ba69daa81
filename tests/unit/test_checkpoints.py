"""Which checkpoint is the newest complete one, and which strategy can resume it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from acpt_trainer.checkpoints import checkpoint_problems, last_checkpoint, steps_done
from acpt_trainer.registry import get_strategy
from acpt_trainer.strategies.deepspeed import DeepSpeedStrategy
from acpt_trainer.strategies.eager import EagerStrategy
from acpt_trainer.strategies.ortmodule import OrtStrategy

from .made_up_checkpoints import EAGER, ZERO, checkpoint

# --- the newest checkpoint -----------------------------------------------------------------------


def test_last_checkpoint_has_the_highest_number(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        checkpoint(tmp_path / f"checkpoint-{step}")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")
    assert last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-100")


def test_last_checkpoint_ignores_incomplete_folders(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoint-5")
    (tmp_path / "checkpoint-10").mkdir()  # killed while saving: no trainer_state.json
    (tmp_path / "checkpoint-11" / "trainer_state.json").mkdir(parents=True)
    (tmp_path / "checkpoint-12").write_text("a file")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-5")


def test_last_checkpoint_ignores_other_names(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoint-5")
    for name in ("checkpoint-best", "checkpoint-", "checkpoint-7b", "checkpoint--x", "run-9", "9"):
        checkpoint(tmp_path / name)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-5")


@pytest.mark.parametrize("name", ["checkpoint-old-9", "checkpoint--9", "checkpoint-²"])
def test_last_checkpoint_ignores_names_that_end_in_a_number(tmp_path: Path, name: str) -> None:
    checkpoint(tmp_path / "checkpoint-5")
    checkpoint(tmp_path / name)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-5")


def test_last_checkpoint_of_nothing_is_none(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    assert last_checkpoint(tmp_path / "nowhere") is None
    (tmp_path / "checkpoint-1").mkdir()
    assert last_checkpoint(tmp_path) is None


# --- what can be resumed -------------------------------------------------------------------------


def test_missing_checkpoint_is_a_problem(tmp_path: Path) -> None:
    (problem,) = checkpoint_problems(tmp_path / "nowhere", EagerStrategy(), 1)
    assert problem.what == "the checkpoint does not exist"
    assert problem.where == str(tmp_path / "nowhere")


def test_incomplete_checkpoint_is_a_problem(tmp_path: Path) -> None:
    (problem,) = checkpoint_problems(tmp_path, EagerStrategy(), 1)
    assert "is not a complete checkpoint: it has no trainer_state.json" in problem.what


@pytest.mark.parametrize(
    ("report", "strategy", "processes"),
    [
        (EAGER, EagerStrategy(), 1),
        (EAGER, OrtStrategy(), 1),
        (EAGER, OrtStrategy(), 4),  # the torch format is whole in every process
        (ZERO, DeepSpeedStrategy(), 2),
        (ZERO, get_strategy("ds_ort").build(), 2),
    ],
)
def test_checkpoint_resumes_in_its_format(
    tmp_path: Path, report: Any, strategy: Any, processes: int
) -> None:
    folder = checkpoint(tmp_path / "checkpoint-1", report)
    assert checkpoint_problems(folder, strategy, processes) == []
    assert checkpoint_problems(str(folder), strategy, processes) == []


@pytest.mark.parametrize(
    ("report", "strategy", "formats"),
    [
        (ZERO, EagerStrategy(), ("'ds' in the deepspeed", "'no_acc' resumes the torch")),
        (EAGER, DeepSpeedStrategy(), ("'no_acc' in the torch", "'ds' resumes the deepspeed")),
    ],
    ids=["zero-under-torch", "torch-under-zero"],
)
def test_checkpoint_of_another_format_is_refused(
    tmp_path: Path, report: Any, strategy: Any, formats: tuple[str, str]
) -> None:
    folder = checkpoint(tmp_path / "checkpoint-1", report)
    (problem,) = checkpoint_problems(folder, strategy, 2)
    assert all(part in problem.what for part in formats)
    assert problem.where == str(folder)
    assert f"strategy={report['strategy']!r}" in problem.fix
    assert f"from_pretrained({str(folder)!r})" in problem.fix


@pytest.mark.parametrize("processes", [1, 4])
def test_checkpoint_of_other_processes_is_refused_under_zero(
    tmp_path: Path, processes: int
) -> None:
    folder = checkpoint(tmp_path / "checkpoint-1", ZERO)
    (problem,) = checkpoint_problems(folder, DeepSpeedStrategy(), processes)
    assert problem.what == (
        f"the checkpoint's optimizer state is split over 2 processes, and this run has {processes}"
    )
    assert "resume with 2 processes" in problem.fix


def test_checkpoint_without_report_is_guessed_by_its_files(tmp_path: Path) -> None:
    torch_ = checkpoint(tmp_path / "checkpoint-1")
    zero = checkpoint(tmp_path / "checkpoint-2", latest=True)
    assert checkpoint_problems(torch_, EagerStrategy(), 3) == []
    assert checkpoint_problems(zero, DeepSpeedStrategy(), 3) == []
    assert "in the torch format" in checkpoint_problems(torch_, DeepSpeedStrategy(), 1)[0].what
    (problem,) = checkpoint_problems(zero, EagerStrategy(), 1)
    assert "written by 'ds'" in problem.what
    assert "in the deepspeed format" in problem.what


def test_checkpoint_with_unreadable_report_is_guessed_by_its_files(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoint-1", latest=True)
    (folder / "strategy.json").write_text("{")
    assert checkpoint_problems(folder, DeepSpeedStrategy(), 1) == []
    assert checkpoint_problems(folder, EagerStrategy(), 1)


def test_checkpoint_of_an_unknown_strategy_has_a_usable_fix(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoint-1", latest=True)
    fix = checkpoint_problems(folder, EagerStrategy(), 1)[0].fix
    assert fix.startswith("resume with strategy='ds', or start anew")


@pytest.mark.parametrize(
    ("report", "latest", "strategy", "written_by"),
    [
        (None, True, EagerStrategy(), "ds"),
        (None, False, DeepSpeedStrategy(), "no_acc"),
        ({"checkpoint_format": "deepspeed"}, False, EagerStrategy(), "ds"),
        ({"checkpoint_format": "kettle"}, False, EagerStrategy(), "kettle"),
    ],
)
def test_checkpoint_s_strategy_is_guessed_by_its_format(
    tmp_path: Path, report: Any, latest: bool, strategy: Any, written_by: str
) -> None:
    folder = checkpoint(tmp_path / "checkpoint-1", report, latest=latest)
    (problem,) = checkpoint_problems(folder, strategy, 1)
    assert f"was written by {written_by!r} in the" in problem.what
    assert problem.fix.startswith(f"resume with strategy={written_by!r}, or start anew")


def test_steps_done_are_read_from_the_trainer_s_state(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoint-7")
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 7, "epoch": 0.5}))
    assert steps_done(folder) == steps_done(str(folder)) == 7
