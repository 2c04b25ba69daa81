"""The strategies beyond the four, held to the same: the loss of no_acc step by step, plain keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from strategy_runs import FEWER, Runs, launch
from test_strategies import TOLERANCE, keys, largest_difference, losses

from acpt_trainer import get_strategy
from acpt_trainer.checkpoints import checkpoint_problems

pytestmark = pytest.mark.slow


def marked(pairs: Any) -> list[Any]:
    """Test parameters of (strategy, processes, ...); several processes are marked as such."""
    several = pytest.mark.distributed
    return [pytest.param(*p, marks=several if p[1] > 1 else ()) for p in pairs]


SAME = ("plain", "smoothed")
each = pytest.mark.parametrize(("strategy", "processes"), marked(FEWER))


@pytest.mark.parametrize(
    ("strategy", "processes", "scenario"),
    marked((*pair, s) for pair, names in FEWER.items() for s in names if s in SAME),
)
def test_loss_per_step_equals_no_acc(
    runs: Runs, strategy: str, processes: int, scenario: str
) -> None:
    result = runs.all(strategy, processes)[scenario]
    reference = runs.all("no_acc", 1)[scenario]

    assert len(result["losses"]) == 20
    assert largest_difference(result, reference) < TOLERANCE
    assert result["eval_loss"] == pytest.approx(reference["eval_loss"], rel=TOLERANCE)


@each
def test_trained_model_is_no_acc_s(runs: Runs, strategy: str, processes: int) -> None:
    ours, theirs = runs.all(strategy, processes)["plain"], runs.all("no_acc", 1)["plain"]

    # FSDP2 shards in place, and the model stays of the class that it makes for that.
    prefix = "FSDP" if strategy == "fsdp" else ""
    assert ours["model_class"] == f"{prefix}GPT2LMHeadModel"
    assert ours["forward_is_plain"]
    assert ours["generated"] == theirs["generated"]
    assert ours["norms"].keys() == theirs["norms"].keys()
    for name, norm in theirs["norms"].items():
        assert ours["norms"][name] == pytest.approx(norm, rel=1e-3), name


@each
def test_checkpoint_holds_the_plain_model(runs: Runs, strategy: str, processes: int) -> None:
    runs.all(strategy, processes)
    runs.all("no_acc", 1)
    folder = runs.output(strategy, processes, "plain")
    reference = runs.output("no_acc", 1, "plain")

    assert keys(folder / "checkpoint-10") == keys(reference / "checkpoint-10")
    assert keys(folder) == keys(reference)
    saved = json.loads((folder / "config.json").read_text())
    assert saved["architectures"] == ["GPT2LMHeadModel"]
    report = json.loads((folder / "checkpoint-10" / "strategy.json").read_text())
    assert (report["strategy"], report["status"]) == (strategy, "engaged")


@pytest.mark.parametrize(
    ("strategy", "processes"), marked(p for p, names in FEWER.items() if "resumed" in names)
)
def test_resumed_run_repeats_the_uninterrupted_one(
    runs: Runs, strategy: str, processes: int
) -> None:
    results = runs.all(strategy, processes)

    assert len(results["resumed"]["losses"]) == 20
    assert largest_difference(results["resumed"], results["plain"], first=10) < TOLERANCE


def test_compile_repeats_its_dropout_masks_when_resumed(runs: Runs) -> None:
    results = runs.all("compile", 1)

    assert largest_difference(results["dropout_resumed"], results["dropout"], first=4) < TOLERANCE
    dropped, plain = losses(results["dropout"]), losses(results["plain"])
    assert all(abs(dropped[s] - plain[s]) > 1e-6 for s in dropped)


@pytest.mark.parametrize("strategy", ["compile", "ds_compile"])
def test_compile_reports_what_was_compiled(runs: Runs, strategy: str) -> None:
    report = runs.all(strategy, 1)["plain"]["report"]
    evidence = report["evidence"].get("compile", report["evidence"])

    assert report["status"] == "engaged"
    assert evidence["grad_fn"] == "CompiledFunctionBackward"
    assert evidence["regions"] == {"GPT2Block": 2}
    assert evidence["forward_calls"] == 2 * 20
    # One graph for both blocks: they share what is compiled.
    assert evidence["graphs"] == 1
    assert evidence["graph_breaks"] == {}
    assert evidence["recompiles"] == []


def test_ds_compile_reports_the_engine_too(runs: Runs) -> None:
    report = runs.all("ds_compile", 1)["plain"]["report"]

    assert report["parallel"] == "DeepSpeedEngine"
    assert report["checkpoint_format"] == "deepspeed"
    assert report["evidence"]["ds"]["steps"] == 20


@pytest.mark.distributed
def test_ddp_reports_what_was_reduced(runs: Runs) -> None:
    report = runs.all("ddp", 2)["plain"]["report"]
    evidence = report["evidence"]

    assert (report["status"], report["parallel"]) == ("engaged", "DistributedDataParallel")
    assert (evidence["backend"], evidence["processes"]) == ("gloo", 2)
    assert evidence["all_reduces"] == 20
    # AdamW keeps two moments of each parameter, and every gradient is reduced at each step.
    moments = report["optimizer_state_bytes"]
    assert evidence["bytes_reduced"] == pytest.approx(20 * moments / 2, rel=0.01)


@pytest.mark.distributed
def test_fsdp_reports_its_share(runs: Runs) -> None:
    result = runs.all("fsdp", 2)["plain"]
    report, evidence = result["report"], result["report"]["evidence"]
    whole = runs.all("no_acc", 1)["plain"]["report"]["optimizer_state_bytes"]

    assert (report["status"], report["checkpoint_format"]) == ("engaged", "fsdp")
    assert report["parallel"] == "FSDPGPT2LMHeadModel"
    assert evidence["processes"] == 2
    assert evidence["parameter_bytes_whole"] == pytest.approx(whole / 2, rel=0.01)
    assert evidence["parameter_share"] <= 0.55
    assert 0 < report["optimizer_state_bytes"] <= 0.55 * whole
    # Two blocks, the tail with the tied embedding, and the rest, at each of 20 steps.
    assert (evidence["units"], evidence["reduce_scatters"]) == (4, 80)


@pytest.mark.distributed
def test_fsdp_evaluates_before_it_trains(runs: Runs) -> None:
    result = runs.all("fsdp", 2)["evaluated_first"]
    reference = losses(runs.all("no_acc", 1)["plain"])

    assert result["eval_before"] > 0
    for step, loss in list(losses(result).items())[:2]:
        assert loss == pytest.approx(reference[step], rel=TOLERANCE)


@pytest.mark.distributed
def test_fsdp_computes_in_bf16(runs: Runs) -> None:
    result, plain = runs.all("fsdp", 2)["bf16"], runs.all("fsdp", 2)["plain"]
    report, evidence = result["report"], result["report"]["evidence"]

    assert (report["precision"], evidence["precision"]) == ("bf16", "bf16")
    assert report["status"] == "engaged"
    # Neither the loss nor what is added up over the processes is rounded to bf16.
    assert evidence["bytes_reduced"] == plain["report"]["evidence"]["bytes_reduced"] / 10
    for step, loss in losses(result).items():
        assert loss == pytest.approx(losses(plain)[step], rel=5e-4)
        assert loss != float(torch.tensor(loss).bfloat16())


@pytest.mark.distributed
def test_fsdp_shards_models_of_other_shapes(tmp_path: Any) -> None:
    worker, answer = Path(__file__).with_name("fsdp_worker.py"), tmp_path / "answer.json"
    done = launch([str(worker), str(answer)], 2)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(answer.read_text())

    units = {name: row["units"] for name, row in found.items()}
    # Two blocks (T5: two in each half), what is left, and what Accelerate finds at the ends.
    assert units == {"bert": 3, "bert_classifier": 4, "t5": 5, "vit": 5, "lora": 4, "module": 1}
    for name, row in found.items():
        assert row["status"] == "engaged", name
        assert row["losses"] == pytest.approx(row["plain_losses"], rel=TOLERANCE), name
        assert row["share"] < 0.6, name


@pytest.mark.distributed
def test_fsdp_checkpoint_is_refused_by_the_others(runs: Runs) -> None:
    runs.all("fsdp", 2)
    folder = runs.output("fsdp", 2, "plain") / "checkpoint-10"

    for name in ("no_acc", "ds"):
        (problem,) = checkpoint_problems(folder, get_strategy(name).build(), 1)
        assert "was written by 'fsdp' in the fsdp format" in problem.what
        assert "from_pretrained" in problem.fix
    # Whole when written, so any number of processes resumes it.
    assert checkpoint_problems(folder, get_strategy("fsdp").build(), 4) == []
