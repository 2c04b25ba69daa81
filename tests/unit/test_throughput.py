"""Throughput: arithmetic under a made-up clock, and the callback's events."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import BatchEncoding

from acpt_trainer import throughput
from acpt_trainer.throughput import (
    WARMUP_STEPS,
    ThroughputCallback,
    ThroughputMeter,
    batch_size_and_tokens,
)


class Clock:
    """A `time.perf_counter` that moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made_up = Clock()
    monkeypatch.setattr(throughput.time, "perf_counter", made_up)
    return made_up


@pytest.fixture
def measure(clock: Clock) -> Callable[..., ThroughputMeter]:
    """Steps of the given seconds, each with two micro-batches of 4 samples and 40 tokens."""

    def run(
        *seconds: float, warmup_steps: int = 0, world_size: int = 1, tokens: int = 40
    ) -> ThroughputMeter:
        meter = ThroughputMeter(warmup_steps, world_size)
        meter.mark()
        for duration in seconds:
            meter.count(4, tokens)
            meter.count(4, tokens)
            clock.wait(duration)
            meter.step()
        return meter

    return run


def test_meter_counts_samples_tokens_and_seconds(measure: Callable[..., ThroughputMeter]) -> None:
    assert measure(2.0, 1.0, 1.0).metrics() == {
        "stable_train_samples_per_second": 6.0,
        "stable_train_tokens_per_second": 60.0,
        "stable_train_steps": 3,
        "warmup_steps_excluded": 0,
        "first_step_seconds": 2.0,
        "stable_step_seconds": 1.0,
    }


def test_meter_leaves_the_first_steps_out(measure: Callable[..., ThroughputMeter]) -> None:
    metrics = measure(90.0, 30.0, 2.0, 4.0, 2.0, warmup_steps=2).metrics()
    assert metrics["warmup_steps_excluded"] == 2
    assert metrics["stable_train_steps"] == 3
    assert metrics["stable_train_samples_per_second"] == 3.0
    assert metrics["stable_train_tokens_per_second"] == 30.0
    assert metrics["first_step_seconds"] == 90.0
    assert metrics["stable_step_seconds"] == 2.0


@pytest.mark.parametrize(
    ("steps", "excluded"), [(1, 0), (2, 1), (3, 1), (7, 3), (9, 4), (10, 5), (11, 5), (100, 5)]
)
def test_meter_leaves_at_most_half_out(
    measure: Callable[..., ThroughputMeter], steps: int, excluded: int
) -> None:
    metrics = measure(*[1.0] * steps, warmup_steps=5).metrics()
    assert metrics["warmup_steps_excluded"] == excluded
    assert metrics["stable_train_steps"] == steps - excluded


def test_meter_counts_every_process(measure: Callable[..., ThroughputMeter]) -> None:
    one, four = measure(1.0, 1.0).metrics(), measure(1.0, 1.0, world_size=4).metrics()
    for name in ("stable_train_samples_per_second", "stable_train_tokens_per_second"):
        assert four[name] == 4 * one[name] > 0
    assert four["stable_step_seconds"] == one["stable_step_seconds"]


def test_meter_without_tokens_says_nothing_of_them(
    measure: Callable[..., ThroughputMeter],
) -> None:
    metrics = measure(1.0, tokens=0).metrics()
    assert metrics["stable_train_samples_per_second"] == 8.0
    assert "stable_train_tokens_per_second" not in metrics


def test_meter_without_steps_is_empty(clock: Clock) -> None:
    meter = ThroughputMeter()
    assert meter.metrics() == {}
    meter.mark()
    meter.count(4, 40)
    assert meter.metrics() == {}


def test_meter_without_a_mark_measures_from_the_first_step(clock: Clock) -> None:
    meter = ThroughputMeter(0)
    meter.count(400, 0)
    meter.step()  # nobody knows how long it took
    meter.count(4, 0)
    clock.wait(2.0)
    meter.step()
    assert meter.metrics()["stable_train_samples_per_second"] == 2.0


def test_meter_survives_a_clock_that_stands_still(
    measure: Callable[..., ThroughputMeter],
) -> None:
    assert measure(0.0, 0.0).metrics()["stable_train_samples_per_second"] == 0.0


def test_meter_refuses_negative_warmup() -> None:
    with pytest.raises(ValueError, match="warmup_steps is -1"):
        ThroughputMeter(-1)
    assert ThroughputMeter().warmup_steps == WARMUP_STEPS
    assert ThroughputMeter(0).warmup_steps == 0


# --- the callback --------------------------------------------------------------------------------

ARGS = SimpleNamespace(
    world_size=2,
    device=torch.device("cpu"),
    per_device_train_batch_size=4,
    gradient_accumulation_steps=3,
)


class Run:
    """What a Trainer tells its callbacks."""

    def __init__(self, callback: ThroughputCallback, clock: Clock) -> None:
        self.callback = callback
        self.clock = clock
        self.state = SimpleNamespace(num_input_tokens_seen=0, global_step=0, max_steps=10)

    def tell(self, event: str, **kwargs: Any) -> None:
        getattr(self.callback, event)(ARGS, self.state, None, **kwargs)

    def step(self, seconds: float, tokens: int = 0) -> None:
        self.clock.wait(seconds)
        self.state.num_input_tokens_seen += tokens
        self.state.global_step += 1
        self.tell("on_step_end")

    def end(self) -> dict[str, Any]:
        logs = {"train_runtime": 1.0}
        self.tell("on_log", logs=logs)
        return logs


@pytest.fixture
def run(clock: Clock) -> Run:
    made_up = Run(ThroughputCallback(warmup_steps=0), clock)
    made_up.tell("on_train_begin")
    return made_up


def test_callback_counts_from_the_arguments(run: Run) -> None:
    run.step(2.0)
    run.step(2.0)
    logs = run.end()
    assert logs["stable_train_samples_per_second"] == 12.0  # 4 x 3 x 2 processes in 2 seconds
    assert "stable_train_tokens_per_second" not in logs


def test_callback_counts_tokens_that_the_state_has_seen(run: Run) -> None:
    run.state.num_input_tokens_seen = 7000  # of an earlier run, resumed
    run.tell("on_train_begin")
    run.step(1.0, tokens=600)
    run.step(2.0, tokens=900)
    assert run.end()["stable_train_tokens_per_second"] == 500.0


def test_callback_leaves_counting_to_the_trainer(run: Run) -> None:
    run.callback.counts_batches = True
    run.callback.meter.count(5, 50)
    run.step(1.0, tokens=99)
    logs = run.end()
    assert logs["stable_train_samples_per_second"] == 10.0
    assert logs["stable_train_tokens_per_second"] == 100.0


@pytest.mark.parametrize("event", ["on_evaluate", "on_save", "on_log"])
def test_callback_leaves_other_time_out(run: Run, clock: Clock, event: str) -> None:
    run.step(1.0)
    clock.wait(500.0)
    run.tell(event)
    run.step(1.0)
    logs = run.end()
    assert logs["stable_train_samples_per_second"] == 24.0
    assert logs["stable_step_seconds"] == 1.0


def test_callback_counts_waiting_for_data(run: Run, clock: Clock) -> None:
    run.step(1.0)
    clock.wait(3.0)  # nothing was told in between
    run.step(1.0)
    assert run.end()["stable_train_samples_per_second"] == 9.6


@pytest.mark.parametrize("logs", [None, {}, {"loss": 1.0}, {"eval_runtime": 2.0}], ids=repr)
def test_callback_adds_metrics_to_the_last_log_only(run: Run, logs: dict[str, Any] | None) -> None:
    run.step(1.0)
    before = dict(logs) if logs is not None else None
    run.tell("on_log", logs=logs)
    assert logs == before
    assert {"train_runtime", "stable_train_steps"} <= set(run.end())


def test_callback_starts_anew_with_each_train(run: Run) -> None:
    run.step(9.0)
    run.tell("on_train_begin")
    run.step(1.0)
    logs = run.end()
    assert (logs["stable_train_steps"], logs["first_step_seconds"]) == (1, 1.0)


def test_callback_waits_for_the_device_where_the_stable_window_begins_and_ends(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    waited: list[int] = []
    made_up = Run(ThroughputCallback(warmup_steps=2), clock)
    monkeypatch.setattr(
        throughput, "_synchronize", lambda device: waited.append(made_up.state.global_step)
    )
    made_up.tell("on_train_begin")
    for _ in range(6):
        made_up.step(1.0)
    assert waited == [1, 2]
    made_up.state.global_step = made_up.state.max_steps - 1
    made_up.step(1.0)
    assert waited == [1, 2, made_up.state.max_steps]


def test_callback_is_one_of_transformers() -> None:
    from transformers import TrainerCallback

    assert isinstance(ThroughputCallback(), TrainerCallback)
    assert ThroughputCallback().warmup_steps == WARMUP_STEPS


# --- what a batch holds --------------------------------------------------------------------------

IDS = torch.ones(3, 7, dtype=torch.long)
PIXELS = torch.ones(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("inputs", "main_input", "expected"),
    [
        ({"input_ids": IDS, "labels": IDS[:1]}, "input_ids", (3, 21)),
        ({"labels": IDS[:1], "input_ids": IDS}, "input_ids", (3, 21)),
        (BatchEncoding({"input_ids": IDS}), "input_ids", (3, 21)),
        ({"pixel_values": PIXELS, "labels": IDS[:1]}, "pixel_values", (2, 0)),
        ({"values": torch.ones(5, 4)}, "input_ids", (5, 0)),  # floats are no token ids
        ({"scale": torch.tensor(2.0), "x": torch.ones(5, 4)}, "input_ids", (5, 0)),
        ({"input_ids": None, "inputs_embeds": torch.ones(3, 7, 16)}, "input_ids", (3, 0)),
        ({"input_ids": IDS[0]}, "input_ids", (7, 0)),
        ({"name": "tea"}, "input_ids", (0, 0)),
        ({}, "input_ids", (0, 0)),
    ],
    ids=lambda v: str(v)[:30] if not isinstance(v, dict) else "-".join(v) or "empty",
)
def test_batch_size_and_tokens(inputs: Any, main_input: str, expected: tuple[int, int]) -> None:
    assert batch_size_and_tokens(inputs, main_input) == expected


def test_batch_size_and_tokens_of_a_tuple_counts_nothing_wrong() -> None:
    samples, _ = batch_size_and_tokens((PIXELS, IDS))
    assert samples in (0, 2)
