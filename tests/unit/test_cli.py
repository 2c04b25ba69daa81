"""The command line."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from typer.testing import CliRunner

from acpt_trainer.cli import app

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_strategies_are_listed_with_what_is_missing() -> None:
    done = CliRunner().invoke(app, ["strategies", "--json"])
    assert done.exit_code == 0
    listed = {entry["name"]: entry for entry in json.loads(done.stdout)}
    assert {"no_acc", "ort", "ds", "ds_ort"} <= set(listed)
    assert listed["no_acc"]["missing"] == []
    assert "no_acc" in CliRunner().invoke(app, ["strategies"]).stdout


def test_mistake_ends_with_status_2() -> None:
    assert CliRunner().invoke(app, ["strategy"]).exit_code == 2


def test_help_imports_no_engine(run_python: Run) -> None:
    done = run_python(
        "-c",
        "import sys\nfrom acpt_trainer.cli import app\n"
        "for command in ([], ['strategies'], ['env'], ['graph'], ['verify'], ['bench']):\n"
        "    try: app([*command, '--help'])\n    except SystemExit as done: assert not done.code\n"
        "print([m for m in ('torch', 'onnxruntime', 'transformers') if m in sys.modules])",
    )
    assert done.stdout.strip().endswith("[]"), done.stderr


def test_dashes_are_underscores() -> None:
    done = CliRunner().invoke(
        app, ["graph", "--batch-size", "0", "--output-dir", "x", "--model", "m"]
    )
    assert "batch_size is 0" in str(done.exception)


def test_mistakes_are_found_before_anything_starts(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    bench = ["bench", "--model", "m", "--strategies", "no_acc", "--no_pictures", "--output_dir"]
    verify = ["verify", "--model", "m", "--strategy", "auto", "--draws", "1"]
    for command, mistakes in (
        ([*bench, str(file / "folder"), "--precision", "fp8"], ("is a file", "no precision")),
        (verify, ("auto takes one of the others", "one draw has no spread")),
    ):
        said = str(CliRunner().invoke(app, command).exception)
        assert all(mistake in said for mistake in mistakes), said
    assert CliRunner().invoke(app, [*bench, "x", "--learning_rate", "-1"]).exit_code == 2
