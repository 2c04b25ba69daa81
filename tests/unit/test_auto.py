"""`auto`, as far as nothing is trained: options, candidates, verdicts, random states, batches."""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from acpt_trainer import ConfigurationError, IncompatibleStrategiesError, get_strategy
from acpt_trainer.auto import choose as choosing
from acpt_trainer.auto.candidates import candidates, precisions
from acpt_trainer.auto.choose import choose
from acpt_trainer.auto.copies import Kit
from acpt_trainer.auto.data import same, shapes
from acpt_trainer.auto.hosts import Apart
from acpt_trainer.auto.randomness import kept_random_states
from acpt_trainer.auto.store import Store
from acpt_trainer.auto.verdict import Choice, Row, fastest, reason
from acpt_trainer.report import StrategyReport
from acpt_trainer.strategies.auto import AutoStrategy
from acpt_trainer.strategies.base import TrainingContext


def row(name: str, first: float, step: float, status: str = "holds", **more: Any) -> Row:
    return Row(name, "fp32", status, first_seconds=first, step_seconds=step, **more)


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Makes the key of a verdict; what is given is other than in the plain one."""
    (tmp_path / "made_up_code.py").write_text("class Made: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "made_up_code", raising=False)  # another test's
    made = importlib.import_module("made_up_code").Made()

    def key(
        attention: str = "eager", dropped: float = 0.1, names: Any = ("ort",), rows: int = 2,
        processes: int = 1, **options: Any,
    ) -> str:  # fmt: skip
        made.model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(dropped))
        made.model.config = SimpleNamespace(_attn_implementation=attention)
        made.compute_loss_func = made.optimizer_cls_and_kwargs = made.optimizer = None
        made.args = SimpleNamespace(world_size=processes, device=torch.device("cpu"))
        auto = AutoStrategy(names, cache=tmp_path / "kept", **options)
        tried, _ = candidates(auto, ("fp32",), "cpu")
        return Store(auto, made, [{"x": torch.ones(rows, 2)}], tried).path.name

    return key


@pytest.mark.parametrize(
    "other",
    [
        {"attention": "sdpa"}, {"dropped": 0.2}, {"names": ["ort", "compile"]}, {"rows": 3},
        {"processes": 2}, {"budget": 5.0}, {"steps": 4},
    ],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
def test_verdict_is_of_one_question(asked: Callable[..., str], other: dict[str, Any]) -> None:
    assert asked() == asked()
    assert asked(**other) != asked()


def test_edited_code_is_another_question(
    asked: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [asked()]
    (tmp_path / "made_up_code.py").write_text("class Made: 'faster'\n")
    keys.append(asked())
    monkeypatch.setenv("ORTMODULE_MADE_UP", "1")
    keys.append(asked())
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")
    assert asked() == keys[-1]
    monkeypatch.setattr("acpt_trainer.__file__", str(tmp_path / "__init__.py"))  # edited as well
    keys.append(asked())
    assert len(set(keys)) == len(keys)


# --- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"budget": 0}, "budget is 0"),
        ({"budget": "5"}, "budget is '5'"),
        ({"budget": "x%"}, "budget is 'x%'"),
        ({"steps": 0}, "steps is 0"),
        ({"precisions": ["fp16"]}, "precisions is"),
        ({"precisions": "fp32"}, "precisions is 'fp32'"),
        ({"candidates": []}, "candidates is"),
        ({"candidates": "ort"}, "candidates is 'ort'"),
        ({"candidates": ["orrt"]}, "no strategy named 'orrt'"),
        ({"candidates": ["auto"]}, "cannot be its own candidate"),
    ],
)
def test_wrong_option_is_a_problem(options: dict[str, Any], what: str) -> None:
    context = TrainingContext("fp32", "cpu", args=SimpleNamespace())  # type: ignore[arg-type]
    (problem,) = AutoStrategy(**options).problems(context)
    assert what in problem.what


def test_budget_is_seconds_or_a_share_of_the_run() -> None:
    assert AutoStrategy(budget=12).seconds(1000.0) == 12.0
    assert AutoStrategy(budget="5%").seconds(1000.0) == 50.0


def test_auto_is_no_part_of_a_combination() -> None:
    with pytest.raises(IncompatibleStrategiesError, match="auto chooses among strategies"):
        get_strategy("auto+ort")


def test_precisions_are_the_trainers_own_unless_they_are_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert precisions(AutoStrategy(), None, "bf16", "cpu") == ("bf16",)
    assert precisions(AutoStrategy(precisions=["bf16", "fp32"]), None, "fp32", "cpu") == (
        "fp32", "bf16",
    )  # fmt: skip
    for best, expected in (("fp32", ("fp32",)), ("bf16", ("fp32", "bf16"))):
        monkeypatch.setattr("acpt_trainer.auto.candidates.best_precision", lambda _, b=best: b)
        assert precisions(AutoStrategy(), "auto", "fp32", "cpu") == expected


# --- candidates ----------------------------------------------------------------------------------


def test_reference_comes_first_and_engines_last(missing: Callable[..., None]) -> None:
    missing()
    tried, rows = candidates(AutoStrategy(), ("fp32", "bf16"), "cpu")
    assert [c.label for c in tried] == [
        "no_acc in fp32", "no_acc in bf16", "ort in fp32", "compile in fp32", "compile in bf16",
        "fsdp in fp32", "fsdp in bf16", "ds in fp32", "ds_ort in fp32", "ds in bf16",
        "ds_compile in fp32", "ds_compile in bf16",
    ]  # fmt: skip
    assert rows == []


def test_what_is_not_here_is_a_row_with_its_fix(missing: Callable[..., None]) -> None:
    missing("deepspeed")
    tried, rows = candidates(AutoStrategy(candidates=["ds", "ort"]), ("bf16",), "cpu")
    assert [c.label for c in tried] == ["no_acc in bf16"]
    assert [(r.strategy, r.status) for r in rows] == [("ds", "not here"), ("ort", "refused")]
    assert "pip install" in rows[0].fix


def test_nothing_is_tried_where_there_is_one_candidate(missing: Callable[..., None]) -> None:
    missing("deepspeed", "onnxruntime")
    args = SimpleNamespace(device=torch.device("cpu"), process_index=0)
    trainer = SimpleNamespace(
        strategy=AutoStrategy(candidates=["ort", "ds"]), args=args, _asked_precision=None,
        _binding=SimpleNamespace(precision="fp32"),
    )  # fmt: skip
    choice = choose(trainer, None)
    assert (choice.strategy, choice.why) == ("no_acc", "nothing else is available")
    assert [r.status for r in choice.rows] == ["holds", "not here", "not here"]


def test_checkpoint_without_a_report_is_refused(tmp_path: Path) -> None:
    trainer = SimpleNamespace(strategy=AutoStrategy())
    with pytest.raises(ConfigurationError, match="does not say which strategy wrote it"):
        choose(trainer, str(tmp_path))


# --- verdicts ------------------------------------------------------------------------------------


def test_length_of_the_run_decides() -> None:
    rows = [row("no_acc", 0.1, 1.0), row("ort", 10.1, 0.5), row("wrong", 0.1, 0.1, "differs")]
    assert fastest(rows, 10) is rows[0]
    assert fastest(rows, 1000) is rows[1]
    assert fastest(rows[2:], 10) is None
    assert "ort in fp32 is 2.00 times as fast a step" in reason(rows[0], rows, 10)
    assert "not paid back in 10 steps" in reason(rows[0], rows, 10)
    assert "2.00 times as fast as no_acc" in reason(rows[1], rows, 1000)
    assert "paid back after 20 of 1000 steps" in reason(rows[1], rows, 1000)
    assert reason(rows[0], rows[:1], 10) == "nothing else could be tried"
    slower = [rows[0], row("slow", 0.2, 2.0, "slower")]
    assert "nothing that computes the same is faster" in reason(rows[0], slower, 10)


@pytest.mark.parametrize(
    ("first", "step", "beaten"), [(2, 2, True), (2, 0.5, False), (0.5, 2, False)]
)
def test_row_is_beaten_only_by_one_that_is_faster_in_every_run(
    first: float, step: float, beaten: bool
) -> None:
    assert row("ours", first, step).is_beaten_by(row("theirs", 1, 1)) is beaten


def test_report_shows_the_table() -> None:
    rows = (row("no_acc", 0.1, 1.0), row("ort", 10.1, 0.5, difference=2e-7), Row(
        "ds", "fp32", "crashed", "exit status 7"))  # fmt: skip
    choice = Choice("auto", "ort", "fp32", "it is faster", "tried", 100, 30.0, rows)
    report = choice.noted(StrategyReport("ort", "engaged", None, "fp32", "cpu", 1))
    assert str(report).splitlines() == [
        "strategy ort (asked for: auto): engaged (fp32 on cpu, 1 process)",
        "  chosen: it is faster (tried)",
        "       strategy  precision  first step  a step  this run  apart    verdict",
        "       no_acc    fp32       0.1 s       1 s     99.1 s             holds",
        "    *  ort       fp32       10.1 s      0.5 s   59.6 s    2.0e-07  holds",
        "       ds        fp32                                              crashed: exit status 7",
    ]
    assert report.to_dict()["choice"]["rows"][2]["reason"] == "exit status 7"


@pytest.mark.parametrize(("budget", "winner"), [(100.0, "no_acc"), (10.0, "ort")])
def test_close_ones_are_timed_once_more_while_there_is_time(budget: float, winner: str) -> None:
    """A busy machine made `no_acc` look slower."""
    trial = object.__new__(choosing._Trial)
    trial.auto, trial.data, trial.ranks = AutoStrategy(), SimpleNamespace(steps=100), 1
    trial.budget, trial.began = budget, choosing.time.monotonic()
    asked = []

    class Machine:
        def ask(self, do: str, number: int, seconds: float) -> dict[str, Any]:
            asked.append((do, number))
            return {"status": "ok", "first_seconds": 1.0, "step_seconds": (0.9, 1.05, 9)[number]}

    rows = [
        row("no_acc", 1, 1.1),
        row("ort", 1, 1.0),
        row("far", 1, 3),
        row("b", 0, 0.1, "differs"),
    ]
    trial._time_again(Machine(), rows)  # type: ignore[arg-type]
    assert asked == ([("time", 0), ("time", 1)] if budget == 100.0 else [])
    assert rows[1].step_seconds == 1.0
    best = fastest(rows, 100)
    assert best is not None
    assert best.strategy == winner


# --- random states and data ----------------------------------------------------------------------


def test_every_random_state_is_put_back() -> None:
    owner = SimpleNamespace(
        inner=SimpleNamespace(own=random.Random(0), numpy=np.random.default_rng(0)),
        many=[torch.Generator().manual_seed(0), np.random.RandomState(0)],
    )
    owner.itself = owner

    def draw() -> list[float]:
        return [
            random.random(), np.random.rand(), float(torch.rand(())), owner.inner.own.random(),
            owner.inner.numpy.random(), float(torch.rand((), generator=owner.many[0])),
            owner.many[1].rand(),
        ]  # fmt: skip

    with kept_random_states(owner):
        first = draw()
        assert draw() != first
    assert draw() == first


def test_shapes_tell_what_varies() -> None:
    batches = [{"ids": torch.zeros(4, n, dtype=torch.long), "x": torch.zeros(4)} for n in (5, 9)]
    assert shapes(batches) == {"ids": "torch.int64 (4, ..16)", "x": "torch.float32 (4)"}
    assert same(batches[0], batches[0])
    assert not same(batches[0], batches[1])


def test_what_no_other_process_finds_is_not_sent(tmp_path: Path) -> None:
    model = torch.nn.Linear(1, 1)
    trainer = SimpleNamespace(model=model, compute_loss_func=lambda *args: None)
    kit = Kit(trainer, [], [], 1, str(tmp_path))
    assert "cannot be pickled" in str(Apart.pack(kit, tmp_path))
    trainer.compute_loss_func = None
    assert Apart.pack(kit, tmp_path) is None
    kit.trainer.model = type("Own", (torch.nn.Linear,), {"__module__": "__main__"})(1, 1)
    assert "Own is defined in the script itself" in str(Apart.pack(kit, tmp_path))
