"""The evidence of `ds`, read from a made-up engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from acpt_trainer.strategies import deepspeed as module
from acpt_trainer.strategies.base import Status, TrainingContext
from acpt_trainer.strategies.deepspeed import DeepSpeedStrategy


def cpu(args: Any = None, precision: str = "fp32") -> TrainingContext:
    return TrainingContext(precision, "cpu", 1, args)


class DeepSpeedZeroOptimizer:
    """What the evidence is read from: this process's partition of one flat group."""

    def __init__(self, whole: int, partitions: int, held: int, stepped: bool = True) -> None:
        partition = torch.zeros(held)
        moments = {"exp_avg": torch.zeros(held), "exp_avg_sq": torch.zeros(held)}
        self.single_partition_of_fp32_groups = [partition]
        self.bit16_groups_flat = [torch.zeros(whole)]
        self.partition_count = [partitions]
        self.optimizer = SimpleNamespace(state={partition: moments} if stepped else {})


class DeepSpeedEngine:
    """A made-up engine."""

    def __init__(
        self, optimizer: Any, stage: int = 1, steps: int = 1, precision: str = "fp32"
    ) -> None:
        self.optimizer = optimizer
        self.global_steps = steps
        self.skipped_steps = 0
        self._stage = stage
        self._precision = precision

    def bfloat16_enabled(self) -> bool:
        return self._precision == "bf16"

    def fp16_enabled(self) -> bool:
        return self._precision == "fp16"

    def gradient_clipping(self) -> float:
        return 1.0

    def zero_optimization_stage(self) -> int:
        return self._stage


def prepared(engine: Any) -> DeepSpeedStrategy:
    strategy = DeepSpeedStrategy()
    strategy.prepared(None, engine)
    return strategy


def test_status_is_pending_before_an_engine_is_there() -> None:
    status = DeepSpeedStrategy().status()
    assert (status.status, status.evidence) == (Status.PENDING, {})


@pytest.mark.parametrize(("partitions", "stage"), [(1, 1), (2, 1), (4, 2)])
def test_status_is_engaged_with_a_fair_share(partitions: int, stage: int) -> None:
    optimizer = DeepSpeedZeroOptimizer(1000, partitions, 1000 // partitions)
    status = prepared(DeepSpeedEngine(optimizer, stage, steps=3)).status()
    assert status.status is Status.ENGAGED
    assert status.evidence == {
        "engine": "DeepSpeedEngine",
        "zero_stage": stage,
        "zero_optimizer": "DeepSpeedZeroOptimizer",
        "precision": "fp32",
        "steps": 3,
        "skipped_steps": 0,
        "partitions": partitions,
        "partition_elements": 1000 // partitions,
        "optimizer_state_bytes": 8000 // partitions,
        "optimizer_state_bytes_whole": 8000,
        "optimizer_state_share": 1 / partitions,
    }


@pytest.mark.parametrize("engine_precision", ["fp32", "fp16"])
def test_status_fell_back_in_another_precision(engine_precision: str) -> None:
    strategy = DeepSpeedStrategy()
    strategy.problems(cpu(precision="bf16"))
    optimizer = DeepSpeedZeroOptimizer(1000, 2, 500)
    strategy.prepared(None, DeepSpeedEngine(optimizer, precision=engine_precision))
    status = strategy.status()
    assert status.status is Status.FELL_BACK
    assert "bf16 was asked for" in str(status.reason)


def test_status_allows_for_padding_and_rounding() -> None:
    # 1000 parameters are padded to 1002, of which each of six processes holds 167: 0.1667.
    status = prepared(DeepSpeedEngine(DeepSpeedZeroOptimizer(1002, 6, 167))).status()
    assert status.status is Status.ENGAGED


@pytest.mark.parametrize("stepped", [True, False])
def test_status_is_pending_before_a_step(stepped: bool) -> None:
    optimizer = DeepSpeedZeroOptimizer(1000, 2, 500, stepped)
    status = prepared(DeepSpeedEngine(optimizer, steps=0)).status()
    assert status.status is Status.PENDING
    assert status.evidence["steps"] == 0
    assert "not made a step yet" in str(status.reason)


def test_status_fell_back_with_an_unfair_share() -> None:
    status = prepared(DeepSpeedEngine(DeepSpeedZeroOptimizer(1000, 2, 1000))).status()
    assert status.status is Status.FELL_BACK
    assert "holds 100% of the optimizer's state instead of 1/2" in str(status.reason)


@pytest.mark.parametrize("stage", [0, 3])
def test_status_fell_back_in_another_stage(stage: int) -> None:
    optimizer = DeepSpeedZeroOptimizer(1000, 2, 500)
    status = prepared(DeepSpeedEngine(optimizer, stage)).status()
    assert (status.status, status.reason) == (
        Status.FELL_BACK,
        f"the engine runs ZeRO stage {stage}",
    )


def test_status_fell_back_without_an_engine() -> None:
    status = prepared(torch.nn.Linear(1, 1)).status()
    assert status.status is Status.FELL_BACK
    assert "the prepared model is a Linear, not a DeepSpeed engine" in str(status.reason)


def test_status_is_not_engaged_by_an_optimizer_without_partitions() -> None:
    engine = DeepSpeedEngine(SimpleNamespace(optimizer=None))
    assert prepared(engine).status().status is Status.PENDING


def test_status_is_engaged_with_an_optimizer_without_state() -> None:
    optimizer = DeepSpeedZeroOptimizer(1000, 2, 500, stepped=False)
    partition = optimizer.single_partition_of_fp32_groups[0]
    optimizer.optimizer = torch.optim.SGD([partition], lr=0.1)
    assert prepared(DeepSpeedEngine(optimizer, steps=3)).status().status is Status.ENGAGED


def test_status_is_engaged_when_the_first_step_overflowed() -> None:
    optimizer: Any = DeepSpeedZeroOptimizer(1000, 2, 500, stepped=False)
    optimizer.overflow = True
    engine: Any = DeepSpeedEngine(optimizer, steps=1)
    engine.skipped_steps = 1
    assert prepared(engine).status().status is Status.ENGAGED


def test_close_lets_go_of_the_engine_and_remembers_the_status() -> None:
    engine = DeepSpeedEngine(DeepSpeedZeroOptimizer(1000, 2, 500))
    strategy = prepared(engine)
    before = strategy.status()
    strategy.close()
    assert strategy._engine is None
    engine.global_steps = 99
    assert strategy.status() == before
    strategy.close()  # again is allowed
    assert strategy.status() == before


def test_wrap_model_starts_evidence_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = prepared(DeepSpeedEngine(DeepSpeedZeroOptimizer(1000, 2, 500)))
    strategy.close()
    strategy.wrap_model(torch.nn.Linear(1, 1))
    assert strategy.status().status is Status.PENDING


def test_tensor_bytes_counts_tensors_only() -> None:
    state = {"step": 3, "exp_avg": torch.zeros(10), "half": torch.zeros(3, dtype=torch.float16)}
    assert module.tensor_bytes(state) == 46


def test_clips_to_what_the_engine_says() -> None:
    strategy = DeepSpeedStrategy()
    assert strategy.clips_to() is None
    engine: Any = DeepSpeedEngine(DeepSpeedZeroOptimizer(1000, 2, 500))
    strategy.prepared(None, engine)
    assert strategy.clips_to() == 1.0
    engine.gradient_clipping = lambda: 0
    assert strategy.clips_to() == 0.0
    strategy.close()
    assert strategy.clips_to() is None


def test_clips_to_nothing_without_an_engine() -> None:
    # Clipping comes before the first proof, which is what has to say that there is no engine.
    assert prepared(torch.nn.Linear(1, 1)).clips_to() is None


def test_status_says_how_many_steps_overflowed() -> None:
    engine: Any = DeepSpeedEngine(DeepSpeedZeroOptimizer(1000, 2, 500), steps=3)
    engine.skipped_steps = 2
    evidence = prepared(engine).status().evidence
    assert (evidence["steps"], evidence["skipped_steps"]) == (3, 2)


def test_share_is_counted_over_all_groups_by_elements() -> None:
    optimizer: Any = DeepSpeedZeroOptimizer(1000, 2, 500, stepped=False)
    optimizer.single_partition_of_fp32_groups.append(torch.zeros(250))
    optimizer.bit16_groups_flat.append(torch.zeros(500))
    optimizer.partition_count.append(2)
    status = prepared(DeepSpeedEngine(optimizer)).status()
    assert status.status is Status.ENGAGED
    assert status.evidence["partition_elements"] == 750
    assert status.evidence["optimizer_state_share"] == 0.5
    assert status.evidence["optimizer_state_bytes"] == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_status_is_engaged_in_the_precision_asked_for(precision: str) -> None:
    strategy = DeepSpeedStrategy()
    strategy.problems(TrainingContext(precision, "cuda"))
    optimizer = DeepSpeedZeroOptimizer(1000, 2, 500)
    strategy.prepared(None, DeepSpeedEngine(optimizer, precision=precision))
    status = strategy.status()
    assert (status.status, status.evidence["precision"]) == (Status.ENGAGED, precision)
