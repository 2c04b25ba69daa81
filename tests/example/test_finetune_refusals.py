"""A user's mistakes that are found once the libraries are there, or by one of several processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from finetune_runs import EXAMPLE, Workspace, flags


def refused_process(workspace: Workspace, output: Path, **changes: Any) -> str:
    done = workspace.finetune(output, **changes)
    assert done.returncode == 2, done.stdout + done.stderr[-4000:]
    assert "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1
    assert not list(output.glob("**/checkpoint-*"))
    return done.stderr


@pytest.mark.parametrize(
    ("device", "hidden", "problems"),
    [("nvidia0", None, 1), ("nvidia0", "", 0), ("nvidiactl", None, 0), ("null", None, 0)],
)
def test_gpu_that_torch_cannot_use_is_not_left_to_idle(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    hidden: str | None,
    problems: int,
) -> None:
    import finetune
    import torch

    (tmp_path / device).touch()
    monkeypatch.setattr(finetune, "DEVICES", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert len(finetune.gpu_problems()) == problems
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert finetune.gpu_problems() == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("A king.\n", "does not fill one block of 16 tokens"),
        ("\n\n\n", "does not fill one block of 16 tokens"),
        (b"caf\xe9 in latin-1\n" * 99, "UTF-8"),
    ],
    ids=["short", "blank", "latin1"],
)
def test_text_that_makes_no_block(
    workspace: Workspace, tmp_path: Path, content: str | bytes, said: str
) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    error = refused_process(workspace, tmp_path / "out", validation_path=path)
    assert said.lower() in error.lower()
    assert f"--validation_path {path}" in error


def test_precision_that_the_strategy_lacks(workspace: Workspace, tmp_path: Path) -> None:
    error = refused_process(workspace, tmp_path, run_config="ort", precision="bf16")
    assert "'ort' does not train in bf16 on cpu" in error
    assert "'fp32'" in error


def test_hub_model_without_a_network(workspace: Workspace, tmp_path: Path) -> None:
    texts = {name: workspace.folder / f"{name}_raw.txt" for name in ("training", "validation")}
    options = flags(
        {
            "train_path": texts["training"],
            "validation_path": texts["validation"],
            "output_dir": tmp_path / "out",
        }
    )
    done = workspace.python(str(EXAMPLE / "finetune.py"), *options)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "1 problem found." in done.stderr
    for words in ("gpt2", "--from_scratch", "--config_path"):
        assert words in done.stderr


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("changes", "headline"),
    [
        ({"run_config": "orrt"}, "error: Cannot train: 1 problem found."),
        ({"block_size": 65}, "error: Cannot train this model: 1 problem found."),
    ],
    ids=["options", "model"],
)
def test_mistake_is_printed_once_for_all_processes(
    workspace: Workspace, tmp_path: Path, changes: dict[str, Any], headline: str
) -> None:
    done = workspace.finetune(tmp_path, processes=2, **changes)
    assert done.returncode != 0
    assert done.stderr.count(headline) == 1


@pytest.mark.slow
@pytest.mark.distributed
def test_mistake_is_printed_even_if_the_first_process_is_slow(
    workspace: Workspace, tmp_path: Path
) -> None:
    """The launcher ends all processes when one has ended: the others must not be faster."""
    program = (
        "import os, sys, time; sys.path.insert(0, sys.argv.pop(1)); "
        "time.sleep(3 if os.environ['RANK'] == '0' else 0); import finetune; finetune.main()"
    )
    script = tmp_path / "slow_first.py"
    script.write_text(program)
    options = workspace.options(tmp_path / "out", run_config="orrt")
    done = workspace.python(str(script), str(EXAMPLE), *options, processes=2)
    assert done.returncode != 0
    assert done.stderr.count("error: Cannot train: 1 problem found.") == 1
