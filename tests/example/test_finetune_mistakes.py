"""A user's mistakes: status 2, no stack trace, what is wrong and a way out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from finetune_runs import CONFIG, EXAMPLE, Workspace

from acpt_trainer.requirements import Requirement

Refuse = Callable[..., str]


@pytest.fixture
def refuse(
    workspace: Workspace, tmp_path: Path, call: Any, capsys: pytest.CaptureFixture[str]
) -> Refuse:
    """Runs the script here with changed options and returns the error, which must be a short one.

    Nothing may have been written.
    """

    def run(**changes: Any) -> str:
        assert call(workspace.options(tmp_path / "out", **changes)) == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error
        assert error.count("error: ") == 1
        assert error.count("fix:") == error.count("where:") >= 1
        assert len(error) < 3000
        assert not (tmp_path / "out").exists()
        return error

    return run


# --- the command line ----------------------------------------------------------------------------


def test_unknown_run_config_gets_a_suggestion(refuse: Refuse) -> None:
    error = refuse(run_config="orrt")
    assert "'orrt'" in error
    assert "did you mean 'ort'" in error
    for name in ("ds", "ds_ort", "no_acc"):
        assert name in error


def test_impossible_pair_names_both(refuse: Refuse) -> None:
    error = refuse(run_config="no_acc+ort")
    assert "'no_acc' and 'ort' cannot be combined" in error
    assert "choose" in error


@pytest.mark.parametrize("option", ["train_path", "validation_path"])
def test_missing_text(refuse: Refuse, tmp_path: Path, option: str) -> None:
    path = tmp_path / "nowhere.txt"
    error = refuse(**{option: path})
    assert f"--{option} {path}" in error
    assert "there is no such file" in error
    assert "prepare_data.py" in error


@pytest.mark.parametrize("option", ["train_path", "validation_path"])
def test_empty_text(refuse: Refuse, tmp_path: Path, option: str) -> None:
    path = tmp_path / "empty.txt"
    path.touch()
    error = refuse(**{option: path})
    assert f"--{option} {path}" in error
    assert "empty" in error
    assert "prepare_data.py" in error


def test_numbers_out_of_range_are_reported_together(refuse: Refuse) -> None:
    bad = {
        "batch_size": 0,
        "block_size": 1,
        "max_steps": -3,
        "warmup_steps": -1,
        "learning_rate": "nan",
        "label_smoothing": 1.5,
        "seed": -7,
        "save_total_limit": 0,
    }
    error = refuse(**bad)
    assert f"{len(bad)} problems found." in error
    for name in bad:
        assert f"where: --{name}\n" in error


def test_mistakes_of_different_kinds_are_reported_together(refuse: Refuse, tmp_path: Path) -> None:
    error = refuse(run_config="orrt", train_path=tmp_path / "nowhere.txt", batch_size=0)
    assert "3 problems found." in error


def test_from_scratch_needs_a_config_and_a_tokenizer(refuse: Refuse) -> None:
    error = refuse(config_path=None, tokenizer_path=None)
    assert "2 problems found." in error
    assert "--config_path configs/gpt2_small.json" in error
    assert "--tokenizer_vocab_size" in error
    assert (EXAMPLE / "configs" / "gpt2_small.json").is_file()


def test_config_of_a_trained_model_is_refused_not_ignored(refuse: Refuse) -> None:
    assert "add --from_scratch" in refuse(from_scratch=None)


@pytest.mark.parametrize("resume", ["checkpoint-nowhere", "auto"])
def test_resume_mistakes(refuse: Refuse, resume: str) -> None:
    if resume == "auto":
        assert "--resume --overwrite" in refuse(resume=True, overwrite=True)
    else:
        assert f"--resume {resume}" in refuse(resume=resume)


def test_output_folder_that_is_a_file(
    workspace: Workspace, tmp_path: Path, call: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "taken"
    path.write_text("mine")
    assert call(workspace.options(path / "out")) == 2
    assert f"{path} is a file" in capsys.readouterr().err
    assert path.read_text() == "mine"


@pytest.mark.parametrize("run_config", ["ds", "ds_ort"])
def test_missing_package_says_how_to_install_it(
    refuse: Refuse, monkeypatch: pytest.MonkeyPatch, run_config: str
) -> None:
    installed = Requirement.installed
    monkeypatch.setattr(
        Requirement, "installed", lambda self: self.module != "deepspeed" and installed(self)
    )
    error = refuse(run_config=run_config)
    assert "1 problem found." in error
    assert "'deepspeed'" in error
    assert "pip install 'acpt-trainer[deepspeed]'" in error


# --- the model and the disk ----------------------------------------------------------------------

BAD_CONFIGS = {
    "no_json": ("{", "no model config"),
    "no_text": (b"\xff\xfe{", "no model config"),
    "a_list": ("[]", "no model config"),
    "no_model_type": (json.dumps({"n_layer": 1}), "model_type"),
    "unknown_model_type": (json.dumps({"model_type": "gpt22"}), "gpt22"),
    "no_causal_model": (json.dumps({"model_type": "t5"}), "t5"),
    "refused_value": (json.dumps(CONFIG | {"n_layer": "one"}), "n_layer"),
    "unfitting_value": (json.dumps(CONFIG | {"n_head": 3}), "3"),
    "unknown_activation": (json.dumps(CONFIG | {"activation_function": "gelux"}), "gelux"),
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_bad_config(refuse: Refuse, tmp_path: Path, name: str) -> None:
    content, said = BAD_CONFIGS[name]
    path = tmp_path / "bad.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    error = refuse(config_path=path)
    assert f"--config_path {path}" in error
    assert said in error


def test_block_longer_than_the_models_positions(refuse: Refuse) -> None:
    error = refuse(block_size=CONFIG["n_positions"] + 1)
    assert "64 positions" in error
    assert "65 tokens" in error
    assert "where: --block_size" in error
    assert "at most 64" in error


def test_tokenizer_that_is_not_there(refuse: Refuse, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    error = refuse(tokenizer_path=empty)
    assert f"--tokenizer_path {empty}" in error
    assert "prepare_data.py" in error


def test_full_disk_is_found_before_training(
    refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        total: int = 10**9
        used: int = 10**9
        free: int = 1000

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage())
    error = refuse()
    assert "the disk has 0 MB free" in error
    assert "--checkpoint_dir" in error
    assert "--output_dir" in error
    assert "free some space" in error
