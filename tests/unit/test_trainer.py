"""The Trainer's helpers: what is settled at start, and which checkpoint is resumed or refused."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn
from transformers import Seq2SeqTrainer, Trainer

from acpt_trainer import trainer as module
from acpt_trainer.errors import ConfigurationError, NotEngagedError
from acpt_trainer.registry import get_strategy
from acpt_trainer.strategies.deepspeed import DeepSpeedStrategy
from acpt_trainer.strategies.eager import EagerStrategy
from acpt_trainer.strategies.ortmodule import OrtStrategy
from acpt_trainer.trainer import (
    AcceleratedSeq2SeqTrainer,
    AcceleratedTrainer,
    AcceleratedTrainerMixin,
    checkpoint_problems,
    last_checkpoint,
)

from .made_up_strategies import MadeUpStrategy

Args = Callable[..., Any]

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="needs the extra 'deepspeed'"
)


def checkpoint(folder: Path, report: Any = None, *, latest: bool = False) -> Path:
    """A complete checkpoint, as far as its files tell."""
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text("{}")
    if report is not None:
        (folder / "strategy.json").write_text(json.dumps(report))
    if latest:
        (folder / "latest").write_text("global_step3")
    return folder


# --- the newest checkpoint -----------------------------------------------------------------------


def test_last_checkpoint_has_the_highest_number(tmp_path: Path) -> None:
    for step in (9, 100, 20):
        checkpoint(tmp_path / f"checkpoint-{step}")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")
    assert last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-100")


def test_last_checkpoint_ignores_incomplete_folders(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoint-5")
    (tmp_path / "checkpoint-10").mkdir()  # killed while saving: no trainer_state.json
    (tmp_path / "checkpoint-11" / "trainer_state.json").mkdir(parents=True)
    (tmp_path / "checkpoint-12").write_text("a file")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-5")


def test_last_checkpoint_ignores_other_names(tmp_path: Path) -> None:
    checkpoint(tmp_path / "checkpoint-5")
    for name in ("checkpoint-best", "checkpoint-", "checkpoint-7b", "checkpoint--x", "run-9", "9"):
        checkpoint(tmp_path / name)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-5")


@pytest.mark.parametrize("name", ["checkpoint-old-9", "checkpoint--9", "checkpoint-²"])
def test_last_checkpoint_ignores_names_that_end_in_a_number(tmp_path: Path, name: str) -> None:
    checkpoint(tmp_path / "checkpoint-5")
    checkpoint(tmp_path / name)
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-5")


def test_last_checkpoint_of_nothing_is_none(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    assert last_checkpoint(tmp_path / "nowhere") is None
    (tmp_path / "checkpoint-1").mkdir()
    assert last_checkpoint(tmp_path) is None


# --- what can be resumed -------------------------------------------------------------------------

EAGER = {"strategy": "no_acc", "checkpoint_format": "torch", "world_size": 1}
ZERO = {"strategy": "ds", "checkpoint_format": "deepspeed", "world_size": 2}


def test_missing_checkpoint_is_a_problem(tmp_path: Path) -> None:
    (problem,) = checkpoint_problems(tmp_path / "nowhere", EagerStrategy(), 1)
    assert problem.what == "the checkpoint does not exist"
    assert problem.where == str(tmp_path / "nowhere")


def test_incomplete_checkpoint_is_a_problem(tmp_path: Path) -> None:
    (problem,) = checkpoint_problems(tmp_path, EagerStrategy(), 1)
    assert "is not a complete checkpoint: it has no trainer_state.json" in problem.what


@pytest.mark.parametrize(
    ("report", "strategy", "processes"),
    [
        (EAGER, EagerStrategy(), 1),
        (EAGER, OrtStrategy(), 1),
        (EAGER, OrtStrategy(), 4),  # the torch format is whole in every process
        (ZERO, DeepSpeedStrategy(), 2),
        (ZERO, get_strategy("ds_ort").build(), 2),
    ],
)
def test_checkpoint_resumes_in_its_format(
    tmp_path: Path, report: Any, strategy: Any, processes: int
) -> None:
    folder = checkpoint(tmp_path / "checkpoint-1", report)
    assert checkpoint_problems(folder, strategy, processes) == []
    assert checkpoint_problems(str(folder), strategy, processes) == []


@pytest.mark.parametrize(
    ("report", "strategy", "formats"),
    [
        (ZERO, EagerStrategy(), ("'ds' in the deepspeed", "'no_acc' resumes the torch")),
        (EAGER, DeepSpeedStrategy(), ("'no_acc' in the torch", "'ds' resumes the deepspeed")),
    ],
    ids=["zero-under-torch", "torch-under-zero"],
)
def test_checkpoint_of_another_format_is_refused(
    tmp_path: Path, report: Any, strategy: Any, formats: tuple[str, str]
) -> None:
    folder = checkpoint(tmp_path / "checkpoint-1", report)
    (problem,) = checkpoint_problems(folder, strategy, 2)
    assert all(part in problem.what for part in formats)
    assert problem.where == str(folder)
    assert f"strategy={report['strategy']!r}" in problem.fix
    assert f"from_pretrained({str(folder)!r})" in problem.fix


@pytest.mark.parametrize("processes", [1, 4])
def test_checkpoint_of_other_processes_is_refused_under_zero(
    tmp_path: Path, processes: int
) -> None:
    folder = checkpoint(tmp_path / "checkpoint-1", ZERO)
    (problem,) = checkpoint_problems(folder, DeepSpeedStrategy(), processes)
    assert problem.what == (
        f"the checkpoint's optimizer state is split over 2 processes, and this run has {processes}"
    )
    assert "resume with 2 processes" in problem.fix


def test_checkpoint_without_report_is_guessed_by_its_files(tmp_path: Path) -> None:
    torch_ = checkpoint(tmp_path / "checkpoint-1")
    zero = checkpoint(tmp_path / "checkpoint-2", latest=True)
    assert checkpoint_problems(torch_, EagerStrategy(), 3) == []
    assert checkpoint_problems(zero, DeepSpeedStrategy(), 3) == []
    assert "in the torch format" in checkpoint_problems(torch_, DeepSpeedStrategy(), 1)[0].what
    (problem,) = checkpoint_problems(zero, EagerStrategy(), 1)
    assert "written by 'ds'" in problem.what
    assert "in the deepspeed format" in problem.what


def test_checkpoint_with_unreadable_report_is_guessed_by_its_files(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoint-1", latest=True)
    (folder / "strategy.json").write_text("{")
    assert checkpoint_problems(folder, DeepSpeedStrategy(), 1) == []
    assert checkpoint_problems(folder, EagerStrategy(), 1)


def test_checkpoint_of_an_unknown_strategy_has_a_usable_fix(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "checkpoint-1", latest=True)
    fix = checkpoint_problems(folder, EagerStrategy(), 1)[0].fix
    assert fix.startswith("resume with strategy='ds', or start anew")


# --- the mixin, on a made-up Trainer -------------------------------------------------------------


class MadeUpTrainer(AcceleratedTrainerMixin):
    """The mixin without a Trainer below it."""

    def __init__(self, args: Any, strategy: Any, precision: str | None = None) -> None:
        self.args = args
        self.strategy = strategy
        self.model = nn.Linear(1, 1)
        self._asked_precision = precision


def test_configure_settles_the_precision_in_the_arguments(make_args: Args) -> None:
    strategy = MadeUpStrategy(trains_in=("bf16",))
    trainer = MadeUpTrainer(make_args(), strategy, "bf16")
    assert trainer._configure() == "bf16"
    assert trainer.args.bf16
    assert strategy.calls == ["configure made_up"]


def test_configure_raises_once_with_all_problems(make_args: Args) -> None:
    args = make_args(bf16=True)
    args._n_gpu = 4
    strategy = MadeUpStrategy(trains_in=("fp32",))
    with pytest.raises(ConfigurationError) as caught:
        MadeUpTrainer(args, strategy, "fp32")._configure()
    text = str(caught.value)
    assert text.startswith("Cannot train with strategy 'made_up': 3 problems")
    for part in ("TrainingArguments(bf16=True) differ", "does not train in bf16", "sees 4 GPUs"):
        assert part in text
    assert strategy.calls == []  # nothing was configured


def test_configure_refuses_deepspeed_that_the_strategy_does_not_stand_for(
    make_args: Args, missing: Callable[..., None]
) -> None:
    missing()
    args = make_args()
    args.deepspeed, args.deepspeed_plugin = "ds.json", object()
    with pytest.raises(ConfigurationError, match="DeepSpeed"):
        MadeUpTrainer(args, OrtStrategy())._configure()


@needs_deepspeed
def test_configure_gives_deepspeed_the_precision_of_the_environment(
    make_args: Args, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    args = make_args()
    assert MadeUpTrainer(args, DeepSpeedStrategy())._configure() == "bf16"
    assert args.hf_deepspeed_config.config["bf16"]["enabled"] is True


@pytest.mark.parametrize("asked", [None, False])
def test_train_without_resuming_looks_for_no_checkpoint(make_args: Args, asked: Any) -> None:
    assert MadeUpTrainer(make_args(), EagerStrategy())._resolve_checkpoint(asked) is None


def test_train_resumes_the_newest_complete_checkpoint(make_args: Args) -> None:
    args = make_args()
    for step in (1, 2):
        checkpoint(Path(args.output_dir) / f"checkpoint-{step}", EAGER)
    (Path(args.output_dir) / "checkpoint-3").mkdir()
    trainer = MadeUpTrainer(args, EagerStrategy())
    newest = str(Path(args.output_dir) / "checkpoint-2")
    assert trainer._resolve_checkpoint(True) == newest
    assert trainer._resolve_checkpoint(Path(newest)) == newest


def test_train_refuses_to_resume_from_nothing(make_args: Args) -> None:
    trainer = MadeUpTrainer(make_args(), EagerStrategy())
    with pytest.raises(ConfigurationError, match=r"Cannot resume: .*\n.*no complete checkpoint"):
        trainer._resolve_checkpoint(True)
    with pytest.raises(ConfigurationError, match="does not exist"):
        trainer._resolve_checkpoint("nowhere")


def test_train_refuses_another_format(make_args: Args) -> None:
    args = make_args()
    folder = checkpoint(Path(args.output_dir) / "checkpoint-1", ZERO)
    with pytest.raises(ConfigurationError, match="in the deepspeed format"):
        MadeUpTrainer(args, EagerStrategy())._resolve_checkpoint(folder)


def test_train_releases_the_strategy_even_when_it_fails() -> None:
    class Failing:
        def train(self, resume_from_checkpoint: Any = None) -> None:
            raise RuntimeError("in the middle")

    class Mixed(MadeUpTrainer, Failing):
        pass

    released: list[bool] = []
    trainer = Mixed(None, EagerStrategy())
    trainer._binding = SimpleNamespace(release=lambda: released.append(True))  # type: ignore[assignment]
    with pytest.raises(RuntimeError, match="in the middle"):
        trainer.train()
    assert released == [True]


def test_verify_callback_stops_after_the_first_step() -> None:
    def verify() -> None:
        raise NotEngagedError("it did not run")

    callback = module._VerifyCallback(SimpleNamespace(verify=verify))  # type: ignore[arg-type]
    with pytest.raises(NotEngagedError):
        callback.on_step_end(None, None, None)


def test_trainers_put_the_mixin_over_transformers() -> None:
    for cls, base in ((AcceleratedTrainer, Trainer), (AcceleratedSeq2SeqTrainer, Seq2SeqTrainer)):
        order = cls.__mro__
        assert order.index(AcceleratedTrainerMixin) < order.index(base)
        assert issubclass(cls, base)
