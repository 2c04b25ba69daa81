"""`auto`: the run that follows a trial is the winner's own, and each candidate is a row."""

from __future__ import annotations

import copy
import itertools
import json
import os
import random
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import auto_made_up
import numpy as np
import pytest
import torch
from auto_made_up import MADE_UP, losses, trainer
from strategy_runs import launch
from transformers.trainer_utils import set_seed

from acpt_trainer import ConfigurationError, create_accelerator, get_strategy, registry
from acpt_trainer.auto import choose as choosing
from acpt_trainer.auto import tries as trying
from acpt_trainer.auto.candidates import Candidate
from acpt_trainer.auto.copies import Kit, stripped
from acpt_trainer.auto.hosts import Apart
from acpt_trainer.auto.tries import Tries


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))
    for cls in MADE_UP:
        registry.register_strategy(cls.name, cls)


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the trainer could not be sent to another process, which is also much quicker."""
    monkeypatch.setattr(Apart, "pack", staticmethod(lambda kit, folder: "the test keeps it here"))


def auto(*names: str, **options: Any) -> Any:
    return get_strategy("auto").build(
        **{"candidates": names, "cache": False, "steps": 3, **options}
    )


def rows(trained: Any) -> dict[str, dict[str, Any]]:
    return {row["strategy"]: row for row in trained.strategy_report().choice["rows"]}


@pytest.mark.slow
def test_run_is_the_winners_own_and_the_others_are_rows(tmp_path: Path) -> None:
    """One process tries all; `ort` wins since it runs nothing of a forward pass that sleeps."""
    names = ("slow", "wrong", "ort", "raises", "crashes")
    ours = trainer(auto(*names), tmp_path / "auto", max_steps=120, save_strategy="steps",
                   save_steps=120)  # fmt: skip
    ours.train()
    theirs = trainer("ort", tmp_path / "ort", max_steps=120)
    theirs.train()

    assert losses(ours) == losses(theirs)
    assert len(set(losses(ours))) > 100  # dropout and data do change them
    for name, value in ours.model.state_dict().items():
        assert torch.equal(value, theirs.model.state_dict()[name]), name

    found = rows(ours)
    assert {n: r["status"] for n, r in found.items()} == {
        "no_acc": "holds", "ort": "holds", "slow": "slower", "wrong": "differs",
        "raises": "failed", "crashes": "crashed",
    }  # fmt: skip
    assert "gradient of transformer.wpe.weight differs by 1.0e+00" in found["wrong"]["reason"]
    assert found["raises"]["reason"] == "ValueError: no way around it"
    assert found["crashes"]["reason"] == "exit status 7: a cry for help"
    assert found["slow"]["reason"] == "than no_acc"
    assert found["ort"]["difference"] < 1e-5

    report = ours.strategy_report()
    assert (report.strategy, report.asked, report.status) == ("ort", "auto", "engaged")
    assert "times as fast as no_acc" in report.choice["why"]
    assert "strategy ort (asked for: auto): engaged" in str(report)
    assert [line for line in str(report).splitlines() if line.strip().startswith("*  ort")]
    saved = json.loads((tmp_path / "auto/checkpoint-120/strategy.json").read_text())
    assert (saved["strategy"], saved["asked"]) == ("ort", "auto")


def test_trial_leaves_no_trace_in_this_process(tmp_path: Path, in_this_process: None) -> None:
    drawn: list[int] = []

    class Rows(torch.utils.data.Dataset):
        def __init__(self) -> None:
            self.noise = np.random.default_rng(0)  # what augmentation draws from

        def __len__(self) -> int:
            return 64

        def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
            drawn.append(i)
            ids = torch.from_numpy(self.noise.integers(0, auto_made_up.VOCABULARY, 16))
            return {"input_ids": ids, "labels": ids}

    def run(strategy: Any) -> tuple[Any, ...]:
        made = trainer(strategy, tmp_path, data=Rows(), optimizer=torch.optim.AdamW)
        set_seed(11)
        weights = {n: v.clone() for n, v in made.model.state_dict().items()}
        if strategy != "quick":
            made._settle(None)
            assert all(torch.equal(v, weights[n]) for n, v in made.model.state_dict().items())
            assert made.optimizer.state_dict()["state"] == {}
            assert "nap" not in vars(made.model)
        drawn.clear()
        made.train()
        after = (random.random(), np.random.rand(), float(torch.rand(())))
        return made.strategy.label, losses(made), list(drawn), after

    assert run(auto("quick")) == run("quick")


def test_wrong_gradients_are_dropped_in_this_process(tmp_path: Path, in_this_process: None) -> None:
    made = trainer(auto("wrong", "ds"), tmp_path)
    made.train()
    assert made.strategy.label == "no_acc"
    assert rows(made)["wrong"]["status"] == "differs"
    assert rows(made)["ds"]["status"] == "not tried"
    assert "needs a process of its own" in rows(made)["ds"]["reason"]


def test_verdict_is_kept_and_nothing_is_tried_again(
    tmp_path: Path, in_this_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = auto("quick", cache=tmp_path / "kept")
    trainer(kept, tmp_path).train()
    (file,) = (tmp_path / "kept" / "verdicts").iterdir()

    with monkeypatch.context() as patched:
        patched.setattr(choosing._Trial, "_rows", lambda self: pytest.fail("tried again"))
        again = trainer(kept, tmp_path)
        again.train()
        report = again.strategy_report()
        assert report.strategy == "quick"
        assert f"kept in {file}; delete that" in report.choice["source"]
        # Another shape is another question.
        with pytest.raises(pytest.fail.Exception, match="tried again"):
            trainer(kept, tmp_path, per_device_train_batch_size=2).train()
    file.write_text(file.read_text()[:40])  # torn
    trainer(kept, tmp_path).train()
    assert json.loads(file.read_text())["rows"][1]["strategy"] == "quick"


def test_trial_that_is_told_to_end_leaves_no_folder(
    tmp_path: Path, in_this_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen = []

    def told(trial: Any, host: Any) -> None:
        seen.append(list(tmp_path.glob("acpt-auto-*")))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(choosing._Trial, "_reference", told)
    with pytest.raises(SystemExit):
        trainer(auto("quick"), tmp_path).train()
    assert len(seen[0]) == 1
    assert not list(tmp_path.glob("acpt-auto-*"))


def test_spent_budget_leaves_no_acc(tmp_path: Path, in_this_process: None) -> None:
    made = trainer(auto("quick", budget=1e-6), tmp_path)
    made.train()
    assert made.strategy.label == "no_acc"
    assert rows(made)["quick"]["status"] == "not tried"
    assert "is spent" in rows(made)["quick"]["reason"]


def test_candidate_that_takes_too_long_ends_between_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = Kit(
        stripped(trainer("no_acc", tmp_path), tmp_path),
        [{name: value[None] for name, value in row.items()} for row in auto_made_up.rows(2)],
        [Candidate.of(get_strategy("quick"), "fp32")], 50, str(tmp_path),
    )  # fmt: skip
    tries = Tries(lambda: copy.deepcopy(kit))
    # A second goes by whenever someone looks at the clock: twice a step.
    clock = SimpleNamespace(perf_counter=itertools.count().__next__)
    monkeypatch.setattr(trying, "time", clock)

    answer = tries.time(0, 5)
    assert answer["status"] == "over budget"
    assert "its share of the budget is 5.0 s" in answer["reason"]
    answer = tries.time(0, 20)  # what it has measured by then is enough
    assert (answer["status"], answer["step_seconds"]) == ("ok", 1.0)


@pytest.mark.long
def test_short_run_does_not_pay_a_long_start(tmp_path: Path, in_this_process: None) -> None:
    class Starts(auto_made_up.Quick):
        def wrap_model(self, model: Any) -> Any:
            auto_made_up.CLOCK.sleep(1.5)
            return super().wrap_model(model)

    registry.register_strategy("starts", Starts)
    made = trainer(auto("starts"), tmp_path, max_steps=4)
    choice = choosing.choose(made, None)
    assert choice.strategy == "no_acc"
    assert "is not paid back in 4 steps" in choice.why
    made = trainer(auto("starts"), tmp_path, max_steps=1000)
    assert choosing.choose(made, None).strategy == "starts"


def test_resumed_run_goes_on_with_the_winner(tmp_path: Path, in_this_process: None) -> None:
    ours = trainer(auto("quick"), tmp_path, save_strategy="steps", save_steps=3)
    ours.train()
    again = trainer("auto", tmp_path)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert again.strategy_report().strategy == "quick"
    assert again.strategy_report().choice["why"] == "it wrote the checkpoint"
    assert losses(again)[-3:] == losses(ours)[-3:]

    (tmp_path / "checkpoint-3" / "strategy.json").unlink()
    with pytest.raises(ConfigurationError, match="does not say which strategy wrote it"):
        trainer("auto", tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))


@pytest.mark.long
def test_evaluation_before_training_changes_nothing(tmp_path: Path, in_this_process: None) -> None:
    made = trainer(auto("quick"), tmp_path)
    assert made.strategy_report().status == "pending"
    first = made.evaluate(auto_made_up.rows(8))["eval_loss"]
    made.train()
    assert made.strategy.label == "quick"
    assert made.evaluate(auto_made_up.rows(8))["eval_loss"] != first
    theirs = trainer("quick", tmp_path)
    assert theirs.evaluate(auto_made_up.rows(8))["eval_loss"] == first
    theirs.train()
    assert losses(made) == losses(theirs)


def test_data_that_cannot_be_read_again_is_refused(tmp_path: Path) -> None:
    class Once(torch.utils.data.IterableDataset):
        def __init__(self) -> None:
            self.rows = iter(auto_made_up.rows())

        def __iter__(self) -> Any:
            return self.rows

    with pytest.raises(ConfigurationError, match="not the same when it is read again"):
        trainer(auto("quick"), tmp_path, data=Once()).train()


@pytest.mark.long
def test_precision_is_chosen_where_it_is_free(tmp_path: Path, in_this_process: None) -> None:
    made = trainer(auto("no_acc", steps=1, precisions=["fp32", "bf16"]), tmp_path)
    made.train()
    found = made.strategy_report().choice["rows"]
    assert [row["precision"] for row in found] == ["fp32", "bf16"]
    # Which one is faster depends on the machine; both compute the same, within their rounding.
    assert {row["status"] for row in found} <= {"holds", "slower"}


@pytest.mark.slow
@pytest.mark.distributed
def test_ranks_agree_and_train_as_under_the_winner(tmp_path: Path) -> None:
    command = [str(Path(__file__).with_name("auto_ranks.py")), "wrong,quick,half_crashes"]
    done = launch([*command, str(tmp_path)], 2)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["report"]["choice"] == second["report"]["choice"]
    for found in (first, second):
        assert found["ours"] == found["theirs"]
        assert found["report"]["strategy"] == "quick"
        assert found["report"]["parallel"] == "DistributedDataParallel"
        statuses = [row["status"] for row in found["report"]["choice"]["rows"]]
        assert statuses == ["holds", "differs", "holds", "crashed"]
    (kept,) = (tmp_path / "kept" / "verdicts").glob("*.json")
    assert json.loads(kept.read_text())["rows"] == first["report"]["choice"]["rows"]


@pytest.mark.long
@pytest.mark.parametrize("processes", [1, 2])
def test_run_is_the_engines_own_where_that_wins(tmp_path: Path, processes: int) -> None:
    command = [str(Path(__file__).with_name("auto_ranks.py")), "ds+quick,fsdp", str(tmp_path)]
    done = launch([*command, "200"], processes)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
    found = json.loads((tmp_path / "0.json").read_text())
    assert found["report"]["strategy"] == "ds+quick", found["report"]["choice"]["table"]
    assert found["report"]["parallel"] == "DeepSpeedEngine"
    assert found["ours"] == found["theirs"]


def test_accelerator_without_a_trainer_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="auto chooses when a Trainer begins to train"):
        create_accelerator("auto")
