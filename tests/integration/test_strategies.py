"""The test of tests: no_acc = ort = ds = ds_ort, step by step, with every engine real."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from strategy_runs import STRATEGIES, Runs
from transformers import AutoModelForCausalLM

TOLERANCE = 1e-4

each_strategy = pytest.mark.parametrize("strategy", STRATEGIES)
each_world = pytest.mark.parametrize(
    "processes", [1, pytest.param(2, marks=pytest.mark.distributed)]
)
pytestmark = pytest.mark.slow


def losses(result: dict[str, Any]) -> dict[int, float]:
    return dict(result["losses"])


def largest_difference(a: dict[str, Any], b: dict[str, Any], first: int = 0) -> float:
    a, b = losses(a), losses(b)
    steps = [s for s in a if s > first]
    assert steps
    assert set(a) == set(b)
    return max(abs(a[s] - b[s]) / abs(b[s]) for s in steps)


@each_world
@each_strategy
@pytest.mark.parametrize("scenario", ["plain", "smoothed", "accumulated", "eager_attention"])
def test_loss_per_step_equals_no_acc(
    runs: Runs, strategy: str, processes: int, scenario: str
) -> None:
    result = runs.all(strategy, processes)[scenario]
    # The reference is one process: DDP and ZeRO must not change the step either.
    reference = runs.all("no_acc", 1)[scenario]

    assert len(result["losses"]) == (5 if scenario == "eager_attention" else 20)
    assert largest_difference(result, reference) < TOLERANCE
    assert result["eval_loss"] == pytest.approx(reference["eval_loss"], rel=TOLERANCE)


@each_world
@each_strategy
def test_trained_parameters_equal_no_acc(runs: Runs, strategy: str, processes: int) -> None:
    ours = runs.all(strategy, processes)["plain"]["norms"]
    theirs = runs.all("no_acc", 1)["plain"]["norms"]

    assert ours.keys() == theirs.keys()
    for name, norm in theirs.items():
        assert ours[name] == pytest.approx(norm, rel=1e-3), name


@each_world
@each_strategy
def test_accumulated_batches_equal_one_batch(runs: Runs, strategy: str, processes: int) -> None:
    results = runs.all(strategy, processes)

    assert largest_difference(results["accumulated"], results["plain"]) < TOLERANCE


def test_label_smoothing_changes_the_loss(runs: Runs) -> None:
    results = runs.all("no_acc", 1)

    # Else the equality of the smoothed losses above would prove nothing.
    assert largest_difference(results["smoothed"], results["plain"]) > 3 * TOLERANCE


@each_world
@each_strategy
def test_resumed_run_repeats_the_uninterrupted_one(
    runs: Runs, strategy: str, processes: int
) -> None:
    results = runs.all(strategy, processes)

    assert len(results["resumed"]["losses"]) == 20
    assert largest_difference(results["resumed"], results["plain"], first=10) < TOLERANCE


@each_world
@each_strategy
def test_resumed_run_repeats_the_dropout_masks(runs: Runs, strategy: str, processes: int) -> None:
    results = runs.all(strategy, processes)

    assert largest_difference(results["dropout_resumed"], results["dropout"], first=4) < TOLERANCE


@each_strategy
def test_dropout_is_on(runs: Runs, strategy: str) -> None:
    results = runs.all(strategy, 1)
    with_dropout, without = losses(results["dropout"]), losses(results["plain"])

    assert all(abs(with_dropout[s] - without[s]) > 1e-6 for s in with_dropout)


@each_world
@each_strategy
def test_report_shows_that_the_strategy_engaged(runs: Runs, strategy: str, processes: int) -> None:
    report = runs.all(strategy, processes)["plain"]["report"]
    evidence = report["evidence"]

    assert report["status"] == "engaged"
    assert report["strategy"] == strategy
    assert report["precision"] == "fp32"
    assert report["world_size"] == processes
    if "ort" in strategy:
        found = evidence.get("ort", evidence)
        assert found["grad_fn"] == "_ORTModuleFunctionBackward"
        assert found["graphs"] == 1
        assert found["nodes"] > 100
        assert all(name.startswith("acpt_") for name in found["aten_ops"]), "ours alone"
        assert found["forward_calls"] == 20
    if "ds" in strategy:
        found = evidence.get("ds", evidence)
        assert found["zero_stage"] == 1
        assert found["steps"] == 20
        assert found["partitions"] == processes
    if strategy in ("no_acc", "ort"):
        expected = "DistributedDataParallel" if processes > 1 else "GPT2LMHeadModel"
        assert report["parallel"] == expected


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ds", "ds_ort"])
def test_zero_shards_the_optimizer_state(runs: Runs, strategy: str) -> None:
    whole = runs.all("no_acc", 2)["plain"]["report"]["optimizer_state_bytes"]
    share = runs.all(strategy, 2)["plain"]["report"]["optimizer_state_bytes"]

    assert whole > 0
    assert 0 < share <= 0.55 * whole


@each_world
@each_strategy
def test_model_is_plain_after_training(runs: Runs, strategy: str, processes: int) -> None:
    result = runs.all(strategy, processes)["plain"]

    assert result["model_class"] == "GPT2LMHeadModel"
    assert result["forward_is_plain"]
    assert result["generated"] == runs.all("no_acc", 1)["plain"]["generated"]


@each_world
@each_strategy
def test_checkpoint_loads_in_plain_transformers(runs: Runs, strategy: str, processes: int) -> None:
    runs.all(strategy, processes)
    runs.all("no_acc", 1)
    checkpoint = runs.output(strategy, processes, "plain") / "checkpoint-10"
    reference = runs.output("no_acc", 1, "plain") / "checkpoint-10"

    assert keys(checkpoint) == keys(reference)
    model, info = AutoModelForCausalLM.from_pretrained(checkpoint, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    expected = AutoModelForCausalLM.from_pretrained(reference)
    ids = torch.arange(10)[None]
    torch.testing.assert_close(model(ids).logits, expected(ids).logits, rtol=1e-3, atol=1e-4)


def keys(checkpoint: Path) -> set[str]:
    with safe_open(checkpoint / "model.safetensors", "pt") as file:
        return set(file.keys())


@each_strategy
def test_checkpoint_says_which_strategy_wrote_it(runs: Runs, strategy: str) -> None:
    runs.all(strategy, 1)
    for folder in ("plain/checkpoint-10", "plain"):
        report = json.loads((runs.output(strategy, 1, folder) / "strategy.json").read_text())
        assert report["strategy"] == strategy
        assert report["status"] == "engaged"
        assert report["versions"]["torch"].startswith("2.")


@each_strategy
def test_checkpoint_trains_on_under_each_other_strategy(
    runs: Runs, strategy: str, tmp_path: Path
) -> None:
    scenarios = {}
    for other in STRATEGIES:
        runs.all(other, 1)
        checkpoint = str(runs.output(other, 1, "plain") / "checkpoint-10")
        scenarios[other] = {"init_from": checkpoint, "steps": 2, "output_dir": str(tmp_path)}
    results = runs.train(strategy, 1, scenarios, f"{strategy}_from_others")

    for other in STRATEGIES:
        assert largest_difference(results[other], results["no_acc"]) < TOLERANCE


@pytest.mark.distributed
@each_strategy
def test_evaluating_first_does_not_lose_the_other_process(runs: Runs, strategy: str) -> None:
    result = runs.all(strategy, 2)["evaluated_first"]
    reference = losses(runs.all("no_acc", 1)["plain"])

    assert result["eval_before"] > 0
    # The learning rate decays over 5 steps here and over 20 there: the first two steps are equal.
    for step, loss in list(losses(result).items())[:2]:
        assert loss == pytest.approx(reference[step], rel=TOLERANCE)
    assert result["report"]["parallel"] != "GPT2LMHeadModel"


@pytest.mark.parametrize("strategy", ["no_acc", "ds"])
def test_bf16_trains_on_a_cpu(runs: Runs, strategy: str) -> None:
    result = runs.all(strategy, 1)["bf16"]
    reference = losses(runs.all("no_acc", 1)["plain"])

    assert result["report"]["precision"] == "bf16"
    assert result["report"]["status"] == "engaged"
    first = losses(result)[1]
    assert first == pytest.approx(reference[1], rel=2e-2)
    assert first != reference[1]


@each_strategy
def test_throughput_leaves_out_the_first_steps(runs: Runs, strategy: str) -> None:
    metrics = runs.all(strategy, 1)["plain"]["metrics"]

    assert metrics["warmup_steps_excluded"] == 5
    assert metrics["stable_train_steps"] == 15
    ratio = metrics["stable_train_tokens_per_second"] / metrics["stable_train_samples_per_second"]
    assert ratio == pytest.approx(16, rel=1e-3)
