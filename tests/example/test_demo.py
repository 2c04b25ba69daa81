"""The demo: what it computes of finished runs, and one small real run of it."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import demo
import pytest
from finetune_runs import EXAMPLE, Workspace


def metrics(run_config: str, losses: list[float], **changes: Any) -> dict[str, Any]:
    """A run as metrics.json tells of it, as far as the comparison reads it."""
    strategy = {"status": "engaged", "parallel": "GPT2LMHeadModel", "evidence": {}}
    return {
        "run_config": run_config,
        "world_size": 1,
        "strategy": strategy | {"evidence": changes.pop("evidence", {})},
        "loss_history": [[step, loss] for step, loss in enumerate(losses, start=1)],
        "train_loss": 2.34567,
        "eval_loss": 2.0,
        "perplexity": math.exp(2.0),
        "peak_memory_mb": 1234.5,
        "stable_train_tokens_per_second": 9876.5,
    } | changes


ORT = {"grad_fn": "_ORTModuleFunctionBackward", "nodes": 244, "fused_ops": {"Gelu": 2, "Norm": 3}}
ZERO = {"zero_optimizer": "DeepSpeedZeroOptimizer", "optimizer_state_share": 0.5}


# --- pure functions ------------------------------------------------------------------------------


def test_largest_difference_is_relative_and_per_step() -> None:
    plain = metrics("no_acc", [4.0, 2.0, 1.0])
    near = metrics("ort", [4.0, 2.02, 1.0])
    far = metrics("ds", [4.2, 2.0, 1.0])
    assert demo.largest_difference([plain]) == 0
    assert demo.largest_difference([plain, plain]) == 0
    assert demo.largest_difference([plain, near]) == pytest.approx(0.01)
    assert demo.largest_difference([plain, near, far]) == pytest.approx(0.05)


def test_largest_difference_does_not_cancel_out() -> None:
    plain, other = metrics("no_acc", [2.0, 2.0]), metrics("ort", [1.0, 3.0])
    assert demo.largest_difference([plain, other]) == pytest.approx(0.5)


def test_evidence_shows_what_was_measured() -> None:
    ort = demo.evidence(metrics("ort", [1.0], evidence=ORT))
    assert ort == "_ORTModuleFunctionBackward, 244 nodes, 5 fused"
    zero = demo.evidence(metrics("ds", [1.0], evidence=ZERO))
    assert zero == "DeepSpeedZeroOptimizer, 50% of the optimizer state per process"
    both = demo.evidence(metrics("ds_ort", [1.0], evidence={"ort": ORT, "ds": ZERO}))
    assert both == f"{ort}; {zero}"


def test_evidence_of_a_plain_run_names_the_model() -> None:
    evidence = {"model": "GPT2LMHeadModel", "autocast": "none"}
    shown = demo.evidence(metrics("no_acc", [1.0], evidence=evidence))
    assert shown == "GPT2LMHeadModel in PyTorch"


def test_summary_table_has_a_row_for_each_run() -> None:
    runs = [metrics("no_acc", [1.0]), metrics("ds", [1.0], world_size=2, evidence=ZERO)]
    head, rule, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in demo.summary_table(runs)
    )
    assert head[:3] == ["run config", "processes", "status"]
    assert set(rule) == {"---"}
    assert [row[:3] for row in rows] == [["no_acc", "1", "engaged"], ["ds", "2", "engaged"]]
    assert rows[0][3:8] == ["2.3457", "2.0000", "7.4", "9,876", "1,234"]
    assert {len(line) for line in (head, rule, *rows)} == {len(head)}


@pytest.mark.parametrize("absent", ["missing", "null"])
def test_summary_table_of_numbers_that_are_not_there(absent: str) -> None:
    """A short run has no stable steps; a loss that is no number is null in metrics.json."""
    run = metrics("no_acc", [1.0])
    if absent == "missing":
        del run["stable_train_tokens_per_second"]
    else:
        run |= {"perplexity": None, "eval_loss": None}
    (*_, row) = demo.summary_table([run])
    assert "no_acc" in row


# --- main ----------------------------------------------------------------------------------------


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Calls main() with runs that are already there; returns its exit status."""

    def prepare(args: Any, data: Path) -> None:
        data.mkdir(parents=True)
        (data / "corpus.json").write_text('{"label": "Kettles"}')

    def call(*runs: dict[str, Any]) -> int:
        by_name = {run["run_config"]: run | {"samples": [{"text": "Tea\nis late"}]} for run in runs}
        by_name = {name: run | {"eval_loss_history": []} for name, run in by_name.items()}
        monkeypatch.setattr(demo, "prepare", prepare)
        monkeypatch.setattr(demo, "finetune", lambda args, data, name: by_name[name])
        try:
            demo.main(["--output_dir", str(tmp_path / "out"), "--run_configs", *by_name])
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return call


def test_main_ends_with_an_error_if_a_strategy_did_not_engage(
    finished: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    idle = metrics("ort", [2.0, 1.0])
    idle["strategy"]["status"] = "fell_back"
    assert finished(metrics("no_acc", [2.0, 1.0]), idle) == 2
    assert "not engaged: ort" in capsys.readouterr().err


def test_main_writes_the_comparison(finished: Callable[..., int], tmp_path: Path) -> None:
    assert finished(metrics("no_acc", [2.0, 1.0]), metrics("ort", [2.0, 1.1])) == 0
    summary = (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
    assert "Corpus: Kettles." in summary
    assert "> Tea\n> is late\n" in summary
    written = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))
    assert written["largest_relative_loss_difference"] == pytest.approx(0.1)


def test_run_shows_output_under_its_name_and_keeps_messages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "logs" / "tea.txt"
    program = "import sys; print('boiling'); print('hot', file=sys.stderr)"
    demo.run("tea", [sys.executable, "-c", program], log)
    assert "[tea] boiling\n" in capsys.readouterr().out
    assert log.read_text() == "hot\n"


def test_run_that_fails_shows_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "tea.txt"
    lines = "[print('line', i, file=sys.stderr) for i in range(99)]"
    program = f"import sys; {lines}; sys.exit(3)"
    with pytest.raises(demo.RunFailedError) as failed:
        demo.run("tea", [sys.executable, "-c", program], log)
    message = str(failed.value)
    assert "tea ended with status 3" in message
    assert str(log) in message
    assert message.endswith("line 98")
    assert "line 5\n" not in message


# --- for real ------------------------------------------------------------------------------------


def options(output: str) -> list[str]:
    tiny = ["--max_steps", "4", "--block_size", "16", "--batch_size", "2"]
    return [str(EXAMPLE / "demo.py"), "--output_dir", output, *tiny]


@pytest.mark.long  # continuous integration runs the demo itself
def test_demo_compares_real_runs_and_can_be_repeated(workspace: Workspace, tmp_path: Path) -> None:
    output = tmp_path / "demo"
    # Evaluation takes most of the time: larger entries make fewer blocks.
    command = [*options(str(output)), "--tokenizer_vocab_size", "2000", "--run_configs"]
    # The second time over the checkpoints of the first, and once is enough for that.
    for run_configs in (["no_acc", "ort"], ["ort"]):
        done = workspace.python(*command, *run_configs)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
        assert [run["run_config"] for run in summary["runs"]] == run_configs
        assert {run["strategy"]["status"] for run in summary["runs"]} == {"engaged"}
        assert summary["largest_relative_loss_difference"] < 1e-3
        assert "generated sample" in summary["corpus"]
        page = (output / "summary.md").read_text(encoding="utf-8")
        assert "generated sample" in page
        rows = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line]
        assert [row.split(" | ")[0] for row in rows[1:]] == [f"| {name}" for name in run_configs]
        picture = output / "loss.png"
        assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        picture.unlink()


@pytest.mark.slow
def test_demo_resolves_a_relative_folder_and_reports_a_failing_run(workspace: Workspace) -> None:
    done = workspace.python(*options("failing"), "--run_configs", "orrt")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "orrt ended with status 2" in done.stderr
    assert "did you mean 'ort'" in done.stderr
    assert (workspace.folder / "failing" / "logs" / "orrt.txt").is_file()
    assert not (workspace.folder / "failing" / "summary.json").exists()
