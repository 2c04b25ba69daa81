"""The strategies beyond the four, held to the same: the loss of no_acc step by step, plain keys."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import FEWER, Runs
from test_strategies import TOLERANCE, keys, largest_difference, losses

pytestmark = pytest.mark.slow


def marked(pairs: Any) -> list[Any]:
    """Test parameters of (strategy, processes, ...); several processes are marked as such."""
    several = pytest.mark.distributed
    return [pytest.param(*p, marks=several if p[1] > 1 else ()) for p in pairs]


each = pytest.mark.parametrize(("strategy", "processes"), marked(FEWER))


@pytest.mark.parametrize(
    ("strategy", "processes", "scenario"),
    marked((*pair, s) for pair, names in FEWER.items() for s in names if "dropout" not in s),
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

    assert ours["model_class"] == "GPT2LMHeadModel"
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
