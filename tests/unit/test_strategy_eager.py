"""`no_acc`, and what every strategy has from the base class."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.utils import DistributedType
from torch import nn

from acpt_trainer.registry import get_strategy
from acpt_trainer.requirements import Requirement
from acpt_trainer.strategies.base import (
    AcceleratorStrategy,
    Layer,
    Status,
    StrategyStatus,
    TrainingContext,
)
from acpt_trainer.strategies.eager import EagerStrategy

from .made_up_strategies import MadeUpStrategy

CPU = TrainingContext("fp32", "cpu")


def accelerator(mixed_precision: str = "no", distributed_type: str = "NO") -> Any:
    return SimpleNamespace(mixed_precision=mixed_precision, distributed_type=distributed_type)


# --- the base class ------------------------------------------------------------------------------


def test_layers_are_ordered_inside_first() -> None:
    assert sorted([Layer.ENGINE, Layer.MODULE]) == [Layer.MODULE, Layer.ENGINE]


def test_status_reads_as_its_word() -> None:
    assert [str(s) for s in Status] == ["pending", "engaged", "fell_back"]
    assert StrategyStatus.pending("why") == StrategyStatus(Status.PENDING, {}, "why")
    assert StrategyStatus.engaged({"a": 1}) == StrategyStatus(Status.ENGAGED, {"a": 1}, None)
    assert StrategyStatus.fell_back("why", {"a": 1}) == StrategyStatus(
        Status.FELL_BACK, {"a": 1}, "why"
    )
    assert StrategyStatus.fell_back("why").evidence == {}


def test_status_keeps_a_copy_of_the_evidence() -> None:
    evidence = {"steps": 1}
    status = StrategyStatus.engaged(evidence)
    evidence["steps"] = 2
    assert status.evidence == {"steps": 1}


def test_base_refuses_missing_packages_and_precision_together() -> None:
    class Needy(MadeUpStrategy):
        requires = (
            Requirement("made_up_nowhere", ("made-up",), "tea"),
            Requirement("json", ("json",), "tea"),
        )

    strategy = Needy(trains_in=("fp16", "fp32"))
    strategy.label = "kettle"
    package, precision = strategy.problems(TrainingContext("bf16", "cpu"))
    assert package.fix == "pip install 'acpt-trainer[tea]'"
    assert "'kettle'" in package.what
    assert precision.what == "strategy 'kettle' does not train in bf16 on cpu"
    assert precision.fix == "use precision='fp16' or 'fp32' here, or precision='auto'"
    assert "another device" in MadeUpStrategy(trains_in=()).problems(CPU)[0].fix


def test_base_leaves_the_model_and_arguments_alone() -> None:
    class Bare(AcceleratorStrategy):
        name = "bare"
        layer = Layer.MODULE

        def precisions(self, device: str) -> tuple[str, ...]:
            return ("fp32",)

        def status(self) -> StrategyStatus:
            return StrategyStatus.engaged({})

    strategy, model = Bare(), nn.Linear(1, 1)
    assert strategy.problems(CPU) == []
    assert strategy.wrap_model(model) is model
    assert strategy.unwrap_model(model) is model
    assert strategy.options() == strategy.accelerator_kwargs(CPU) == {}
    assert strategy.checkpoint_format == "torch"
    assert strategy.clips_to() is None
    strategy.configure(None)  # type: ignore[arg-type]
    strategy.prepared(None, model)
    strategy.close()


def test_base_cannot_be_built_without_status_and_precisions() -> None:
    with pytest.raises(TypeError, match="abstract"):
        AcceleratorStrategy()  # type: ignore[abstract]


# --- no_acc --------------------------------------------------------------------------------------


def test_eager_refuses_fp16_on_cpu() -> None:
    (problem,) = EagerStrategy().problems(TrainingContext("fp16", "cpu"))
    assert "does not train in fp16 on cpu" in problem.what
    assert EagerStrategy().problems(TrainingContext("fp16", "cuda")) == []


def test_eager_is_pending_until_the_model_is_prepared() -> None:
    strategy = EagerStrategy()
    strategy.problems(CPU)
    status = strategy.status()
    assert (status.status, status.evidence) == (Status.PENDING, {})
    assert status.reason


@pytest.mark.parametrize(
    ("precision", "mixed", "autocast"), [("fp32", "no", None), ("bf16", "bf16", "bf16")]
)
def test_eager_reads_its_evidence_from_the_prepared_model(
    precision: str, mixed: str, autocast: str | None
) -> None:
    strategy = EagerStrategy()
    strategy.problems(TrainingContext(precision, "cpu"))
    strategy.prepared(accelerator(mixed, "DistributedType.MULTI_CPU"), nn.Linear(1, 1))
    assert strategy.status() == StrategyStatus.engaged(
        {"model": "Linear", "distributed": "MULTI_CPU", "autocast": autocast}
    )


@pytest.mark.parametrize(
    ("precision", "mixed", "reason"),
    [
        ("bf16", "no", "bf16 was asked for and autocast is None"),
        ("fp32", "bf16", "fp32 was asked for and autocast is bf16"),
        ("bf16", "fp16", "bf16 was asked for and autocast is fp16"),
    ],
)
def test_eager_fell_back_in_another_precision(precision: str, mixed: str, reason: str) -> None:
    strategy = EagerStrategy()
    strategy.problems(TrainingContext(precision, "cuda"))
    strategy.prepared(accelerator(mixed), nn.Linear(1, 1))
    status = strategy.status()
    assert (status.status, status.reason) == (Status.FELL_BACK, reason)
    assert status.evidence["model"] == "Linear"


@pytest.mark.parametrize(
    ("distributed_type", "engine"),
    [
        ("DEEPSPEED", "DeepSpeed"),
        (DistributedType.DEEPSPEED, "DeepSpeed"),
        (DistributedType.FSDP, "FSDP"),
        (DistributedType.MEGATRON_LM, "Megatron-LM"),
    ],
)
def test_eager_fell_back_where_an_engine_runs_the_step(distributed_type: Any, engine: str) -> None:
    strategy = EagerStrategy()
    strategy.problems(CPU)
    strategy.prepared(accelerator(distributed_type=distributed_type), nn.Linear(1, 1))
    status = strategy.status()
    assert (status.status, status.reason) == (Status.FELL_BACK, f"{engine} runs the step")
    assert status.evidence["distributed"] == str(distributed_type).rpartition(".")[2]


def test_a_model_divided_by_tensor_parallelism_is_refused() -> None:
    model = nn.Linear(1, 1)
    model.tp_size = 2  # as transformers says it
    (problem,) = EagerStrategy().problems(TrainingContext("fp32", "cpu", 2, None, model))
    assert "divided over 2 processes by tensor parallelism" in problem.what
    assert problem.where == "Linear.tp_size=2"
    model.tp_size = None
    assert EagerStrategy().problems(TrainingContext("fp32", "cpu", 2, None, model)) == []


def test_eager_label_is_the_name_asked_for() -> None:
    assert get_strategy("no_acc").build().label == EagerStrategy().label == "no_acc"
