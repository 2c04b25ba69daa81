"""The mixin on a made-up Trainer: what is settled at start, resumed, logged and released."""

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
from acpt_trainer.strategies import deepspeed
from acpt_trainer.strategies.deepspeed import DeepSpeedStrategy
from acpt_trainer.strategies.eager import EagerStrategy
from acpt_trainer.strategies.ortmodule import OrtStrategy
from acpt_trainer.trainer import (
    AcceleratedSeq2SeqTrainer,
    AcceleratedTrainer,
    AcceleratedTrainerMixin,
)

from .made_up_checkpoints import EAGER, ZERO, checkpoint
from .made_up_strategies import MadeUpStrategy

Args = Callable[..., Any]

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="needs the extra 'deepspeed'"
)


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
    monkeypatch.setattr(deepspeed, "_start_single_process", lambda: None)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    args = make_args()
    assert MadeUpTrainer(args, DeepSpeedStrategy())._configure() == "bf16"
    assert args.hf_deepspeed_config.config["bf16"]["enabled"] is True


def test_same_arguments_serve_one_strategy_after_another(make_args: Args) -> None:
    args = make_args()
    assert MadeUpTrainer(args, MadeUpStrategy(trains_in=("bf16",)), "bf16")._configure() == "bf16"
    assert MadeUpTrainer(args, EagerStrategy(), "fp32")._configure() == "fp32"
    assert (args.bf16, args.mixed_precision) == (False, "no")
    assert MadeUpTrainer(args, EagerStrategy())._configure() == "fp32"


def test_what_the_user_said_survives_an_earlier_strategy(make_args: Args) -> None:
    args = make_args(bf16=True)
    assert MadeUpTrainer(args, EagerStrategy())._configure() == "bf16"
    with pytest.raises(ConfigurationError, match=r"TrainingArguments\(bf16=True\) differ"):
        MadeUpTrainer(args, EagerStrategy(), "fp32")._configure()


@needs_deepspeed
def test_arguments_of_a_deepspeed_run_serve_a_plain_one(
    make_args: Args, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deepspeed, "_start_single_process", lambda: None)
    args = make_args()
    MadeUpTrainer(args, DeepSpeedStrategy())._configure()
    assert args.deepspeed
    MadeUpTrainer(args, EagerStrategy())._configure()
    assert args.deepspeed is None
    assert args.deepspeed_plugin is None


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


@pytest.mark.parametrize(("max_steps", "left"), [(-1, True), (4, True), (3, False), (2, False)])
def test_train_refuses_to_resume_with_nothing_left_to_train(
    make_args: Args, max_steps: int, left: bool
) -> None:
    args = make_args(max_steps=max_steps)
    folder = checkpoint(Path(args.output_dir) / "checkpoint-3", EAGER)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 3}))
    trainer = MadeUpTrainer(args, EagerStrategy())
    if left:
        assert trainer._resolve_checkpoint(folder) == str(folder)
    else:
        with pytest.raises(ConfigurationError, match="nothing is left to train"):
            trainer._resolve_checkpoint(folder)


def test_train_releases_the_strategy_even_when_it_fails() -> None:
    class Failing:
        def compute_loss(self) -> None:
            """Its own."""

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
    assert trainer.model_wrapped is trainer.model  # prepared anew each time


def test_verify_callback_stops_after_the_first_step() -> None:
    def verify() -> None:
        raise NotEngagedError("it did not run")

    callback = module.VerifyCallback(SimpleNamespace(_binding=SimpleNamespace(verify=verify)))  # type: ignore[arg-type]
    with pytest.raises(NotEngagedError):
        callback.on_step_end(None, None, None)


def test_trainers_put_the_mixin_over_transformers() -> None:
    for cls, base in ((AcceleratedTrainer, Trainer), (AcceleratedSeq2SeqTrainer, Seq2SeqTrainer)):
        order = cls.__mro__
        assert order.index(AcceleratedTrainerMixin) < order.index(base)
        assert issubclass(cls, base)


class Base:
    """What the mixin calls of a Trainer; notes whether it looked for an engine."""

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> str:
        self.looked = self.is_deepspeed_enabled  # type: ignore[attr-defined]
        if "fail" in args:
            raise RuntimeError("in the middle")
        return "evaluated"

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        self.looked = self.is_deepspeed_enabled  # type: ignore[attr-defined]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        self.history.append((dict(logs), start_time))  # type: ignore[attr-defined]


class Mixed(MadeUpTrainer, Base):
    """The mixin over it."""


@pytest.mark.parametrize(
    ("enabled", "engine", "looked"),
    [(False, None, False), (True, None, False), (True, object(), True)],
    ids=["plain", "before-train", "engine"],
)
def test_evaluating_and_saving_ask_for_no_engine_before_there_is_one(
    make_args: Args, enabled: bool, engine: Any, looked: bool
) -> None:
    trainer: Any = Mixed(make_args(), EagerStrategy())
    trainer.is_deepspeed_enabled, trainer.deepspeed = enabled, engine
    trainer.is_fsdp_enabled = False
    assert trainer.evaluation_loop() == "evaluated"
    assert (trainer.looked, trainer.is_deepspeed_enabled) == (looked, enabled)
    trainer.save_model()
    assert (trainer.looked, trainer.is_deepspeed_enabled) == (looked, enabled)
    with pytest.raises(RuntimeError, match="in the middle"):
        trainer.evaluation_loop("fail")
    assert trainer.is_deepspeed_enabled is enabled


def test_evaluating_asks_for_no_shards_before_there_are_some(make_args: Args) -> None:
    class Looking(Mixed):
        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
            with self._without_idle_engine():
                self.looked = self.is_fsdp_enabled

    trainer: Any = Looking(make_args(), EagerStrategy())
    trainer.is_deepspeed_enabled, trainer.deepspeed, trainer.is_fsdp_enabled = False, None, True
    for model, looked in ((None, False), (SimpleNamespace(set_requires_gradient_sync=1), True)):
        trainer.model = model
        trainer.save_model()
        assert (trainer.looked, trainer.is_fsdp_enabled) == (looked, True)


def test_log_adds_the_stable_throughput_to_the_last_log_of_training() -> None:
    trainer: Any = Mixed(None, EagerStrategy())
    trainer.history = []
    metrics = {"stable_train_steps": 3, "stable_train_samples_per_second": 8.0}
    trainer._throughput = SimpleNamespace(meter=SimpleNamespace(metrics=lambda: metrics))
    result = {"train_runtime": 2.0}
    trainer.log({"loss": 1.0})
    trainer.log({"eval_runtime": 1.0}, 5.0)
    trainer.log(result)
    # Before the Trainer writes its history, which is saved; and in what `train()` returns.
    assert trainer.history == [
        ({"loss": 1.0}, None),
        ({"eval_runtime": 1.0}, 5.0),
        ({"train_runtime": 2.0, **metrics}, None),
    ]
    assert result == {"train_runtime": 2.0, **metrics}
