"""Fine-tuning in part under the Trainer: each strategy trains, saves and resumes as `no_acc`."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from strategy_runs import launch

Results = Callable[[str], dict[str, Any]]
WORKER = Path(__file__).with_name("peft_worker.py")
TOLERANCE = 1e-5
LORA = ("lora of gpt2", "dora of llama", "lora of bert")

each_strategy = pytest.mark.parametrize(
    "strategy", ["ort", *(pytest.param(s, marks=pytest.mark.distributed) for s in ("ds", "ds_ort"))]
)
each_method = pytest.mark.parametrize("method", [*LORA, "frozen encoder"])
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The results of a strategy by method; `ds` and `ds_ort` run in two processes."""
    folder = tmp_path_factory.mktemp("peft")

    @cache
    def run(strategies: str, processes: int) -> dict[str, Any]:
        answer = folder / f"{processes}.json"
        done = launch([str(WORKER), strategies, str(folder), str(answer)], processes)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
        return json.loads(answer.read_text())

    def of(strategy: str) -> dict[str, Any]:
        return (run("ds,ds_ort", 2) if "ds" in strategy else run("no_acc,ort", 1))[strategy]

    return of


def assert_same_losses(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours["losses"] == pytest.approx(theirs["losses"], rel=TOLERANCE)
    assert len(ours["losses"]) == 4


@each_strategy
@each_method
def test_part_of_a_model_trains_as_with_no_acc(
    results: Results, strategy: str, method: str
) -> None:
    ours, theirs = results(strategy)[method], results("no_acc")[method]

    assert_same_losses(ours, theirs)
    assert ours["report"]["status"] == "engaged"
    # What is frozen stays as it was, and nothing else does.
    assert set(ours["changed"]) == set(ours["trained"]) == set(theirs["trained"])


@each_method
def test_frozen_parameters_have_no_gradient(results: Results, method: str) -> None:
    ours = results("ort")[method]

    assert ours["with_gradient"] == 4 * [ours["trained"]]


@each_strategy
@pytest.mark.parametrize("method", LORA)
def test_saved_adapter_is_plain_pefts(results: Results, strategy: str, method: str) -> None:
    ours = results(strategy)[method]

    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(ours["files"])
    assert "model.safetensors" not in ours["files"]
    assert ours["loaded"] < 1e-6
    assert ours["merged"] < 1e-5


@each_strategy
def test_resumed_adapter_repeats_the_uninterrupted_run(results: Results, strategy: str) -> None:
    ours = results(strategy)["lora of gpt2"]

    assert ours["resumed"] == pytest.approx(ours["losses"], rel=TOLERANCE)


def test_adapters_in_turn_are_each_trained_by_a_graph_of_their_own(results: Results) -> None:
    ours, theirs = results("ort")["two adapters"], results("no_acc")["two adapters"]

    assert_same_losses(ours, theirs)
    assert ours["report"]["evidence"]["graphs"] == 2
    assert ours["with_gradient"] == theirs["with_gradient"]
    assert set(ours["changed"]) == {name for step in theirs["with_gradient"] for name in step}
