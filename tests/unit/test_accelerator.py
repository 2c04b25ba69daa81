"""`create_accelerator`, on a made-up accelerator: what it settles, refuses and verifies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import accelerate
import pytest
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from torch import nn

from acpt_trainer.accelerator import create_accelerator, strategy_report
from acpt_trainer.errors import ConfigurationError, NotEngagedError, Problem
from acpt_trainer.strategies.base import StrategyStatus, TrainingContext

from .made_up_accelerator import Accelerator
from .made_up_strategies import MadeUpEngine, MadeUpStrategy

ENGAGED = StrategyStatus.engaged({"steps": 1})


@pytest.fixture
def accelerators(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Accelerator]]:
    """Accelerate's class replaced by the made-up one; gives what was created."""
    made: list[Accelerator] = []

    def create(**kwargs: Any) -> Accelerator:
        made.append(Accelerator(**kwargs))
        return made[-1]

    monkeypatch.setattr(accelerate, "Accelerator", create)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return made  # type: ignore[return-value]


def test_create_accelerator_binds_the_strategy(accelerators: list[Accelerator]) -> None:
    strategy = MadeUpStrategy(said=ENGAGED, kwargs={"plugin": 1})
    made: Any = create_accelerator(strategy, precision="fp32", log_with="all")
    assert made is accelerators[0]
    assert made.kwargs == {"log_with": "all", "mixed_precision": "no", "plugin": 1}
    assert strategy_report(made).strategy == "made_up"


def test_create_accelerator_settles_the_precision(
    accelerators: list[Accelerator], monkeypatch: pytest.MonkeyPatch
) -> None:
    def mixed(**options: Any) -> str:
        made: Any = create_accelerator(MadeUpStrategy(trains_in=("fp32", "bf16")), **options)
        return str(made.kwargs["mixed_precision"])

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert mixed() == "bf16"
    assert mixed(precision="fp32") == "no"
    assert mixed(precision="bf16") == "bf16"
    assert mixed(precision=None) == "no"


def test_create_accelerator_refuses_what_the_strategy_decides(
    accelerators: list[Accelerator],
) -> None:
    kettle = Problem("the kettle is empty", "kettle", "fill it")
    with pytest.raises(ConfigurationError) as caught:
        create_accelerator(
            MadeUpStrategy(found=(kettle,)),
            precision="bf16",
            mixed_precision="bf16",
            deepspeed_plugin=object(),
            dynamo_backend="inductor",
        )
    whats = [p.what for p in caught.value.problems]
    assert len(whats) == 5  # all of them at once
    assert "mixed_precision is given beside a strategy" in whats
    assert "deepspeed_plugin is given beside a strategy" in whats
    assert "dynamo_backend is given beside a strategy" in whats
    assert kettle in caught.value.problems
    assert "strategy 'made_up'" in str(caught.value)
    assert accelerators == []


def test_create_accelerator_contains_the_environment(
    accelerators: list[Accelerator], monkeypatch: pytest.MonkeyPatch
) -> None:
    create = accelerate.Accelerator

    def meddle(**kwargs: Any) -> Any:
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        return create(**kwargs)

    monkeypatch.setattr(accelerate, "Accelerator", meddle)
    create_accelerator(MadeUpStrategy(), precision="fp32")
    assert "ACCELERATE_USE_DEEPSPEED" not in os.environ


def test_create_accelerator_refuses_deepspeed_of_the_environment(
    accelerators: list[Accelerator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigurationError, match="DeepSpeed"):
        create_accelerator("no_acc", precision="fp32")


def test_created_accelerator_verifies_after_the_first_step(
    accelerators: list[Accelerator],
) -> None:
    strategy = MadeUpStrategy(said=StrategyStatus.pending("no step of mine yet"))
    made: Any = create_accelerator(strategy, precision="fp32")
    made.sync_gradients = False
    made.backward(1)
    made.backward(2)  # still accumulating: no optimizer step yet
    made.sync_gradients = True
    made.backward(3, retain_graph=True)
    with pytest.raises(NotEngagedError, match="no step of mine yet"):
        made.backward(4)
    assert made.done == ["backward 1 {}", "backward 2 {}", "backward 3 {'retain_graph': True}"]
    strategy.said = ENGAGED
    made.backward(5)
    made.end_training()
    assert made.done[-2:] == ["backward 5 {}", "end_training"]
    assert strategy.calls[-1] == "close made_up"


def test_created_accelerator_asks_the_strategy_about_the_model(
    accelerators: list[Accelerator],
) -> None:
    class Choosy(MadeUpStrategy):
        def problems(self, context: Any) -> list[Problem]:
            wrong = isinstance(context.model, nn.Bilinear)
            return [Problem("bilinear", "the model", "another one")] if wrong else []

    made: Any = create_accelerator(Choosy(), precision="fp32")
    with pytest.raises(ConfigurationError, match="bilinear"):
        made.prepare(nn.Bilinear(1, 1, 1))
    made.prepare(nn.Linear(1, 1))  # the refused one does not count


def test_created_accelerator_refuses_a_second_model(accelerators: list[Accelerator]) -> None:
    made: Any = create_accelerator(MadeUpEngine(), precision="fp32")
    model = nn.Linear(1, 1)
    made.prepare(model, object())
    made.prepare(model)  # the same one may be prepared anew
    with pytest.raises(ConfigurationError, match="a second model is prepared"):
        made.prepare(nn.Linear(1, 1))


def test_created_accelerator_refuses_two_models_at_once(accelerators: list[Accelerator]) -> None:
    made: Any = create_accelerator(MadeUpEngine(), precision="fp32")
    with pytest.raises(ConfigurationError, match="a second model is prepared"):
        made.prepare(nn.Linear(1, 1), nn.Linear(1, 1))


class ZeroLike(MadeUpEngine):
    """One that Accelerate makes an accelerator with DeepSpeed for."""

    checkpoint_format = "deepspeed"


@pytest.mark.parametrize(
    ("earlier", "strategy", "made"),
    [
        ("DEEPSPEED", MadeUpStrategy, "with DeepSpeed"),
        ("NO", ZeroLike, "without an engine"),
        ("MULTI_CPU", ZeroLike, "without an engine"),
    ],
)
def test_create_accelerator_refuses_one_of_the_other_kind_in_a_process(
    accelerators: list[Accelerator],
    monkeypatch: pytest.MonkeyPatch,
    earlier: str,
    strategy: type[MadeUpStrategy],
    made: str,
) -> None:
    state = {"distributed_type": DistributedType[earlier]}
    monkeypatch.setattr(AcceleratorState, "_shared_state", state)
    with pytest.raises(ConfigurationError) as caught:
        create_accelerator(strategy(), precision="fp32")
    (problem,) = caught.value.problems
    assert problem.what == f"this process already has an accelerator made {made}"
    assert "AcceleratorState._reset_state" in problem.fix
    assert accelerators == []


@pytest.mark.parametrize(
    ("earlier", "strategy"),
    [
        ({}, MadeUpStrategy),
        ({}, ZeroLike),
        ({"device": "cpu"}, ZeroLike),  # begun, and not made yet
        ({"distributed_type": DistributedType.DEEPSPEED}, ZeroLike),
        ({"distributed_type": DistributedType.NO}, MadeUpStrategy),
    ],
)
def test_create_accelerator_takes_another_of_the_same_kind(
    accelerators: list[Accelerator],
    monkeypatch: pytest.MonkeyPatch,
    earlier: dict[str, Any],
    strategy: type[MadeUpStrategy],
) -> None:
    monkeypatch.setattr(AcceleratorState, "_shared_state", earlier)
    assert create_accelerator(strategy(), precision="fp32") is accelerators[0]


@pytest.mark.parametrize(
    ("options", "processes", "joined"),
    [
        ({}, "1", []),
        ({"cpu": False}, "1", []),
        ({"cpu": True}, "1", [{"cpu": True}]),
        ({"cpu": True}, "2", [{"cpu": True}]),
        ({}, "2", [{"cpu": True}]),  # Accelerate would overlook the launcher
    ],
)
def test_create_accelerator_joins_cpu_processes_before_it_is_made(
    accelerators: list[Accelerator],
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    processes: str,
    joined: list[dict[str, Any]],
) -> None:
    states: list[dict[str, Any]] = []

    def join(**kwargs: Any) -> None:
        assert accelerators == []
        states.append(kwargs)

    monkeypatch.setattr(accelerate, "PartialState", join)
    monkeypatch.setenv("WORLD_SIZE", processes)
    made: Any = create_accelerator(MadeUpStrategy(), precision="fp32", **options)
    assert states == joined
    assert made.kwargs == {"mixed_precision": "no"}  # cpu=True would leave DeepSpeed out


def test_create_accelerator_on_cpu_beside_a_gpu(
    accelerators: list[Accelerator], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Noting(MadeUpStrategy):
        def problems(self, context: TrainingContext) -> list[Problem]:
            asked.append(context.device)
            return []

    monkeypatch.setattr(accelerate, "PartialState", lambda **kwargs: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    create_accelerator(Noting(), precision="fp32", cpu=True)
    create_accelerator(Noting(), precision="fp32")
    assert asked == ["cpu", "cuda"]


def test_created_accelerator_refuses_a_norm_that_the_engine_does_not_clip_to(
    accelerators: list[Accelerator],
) -> None:
    class Clipping(MadeUpEngine):
        def clips_to(self) -> float | None:
            return 0.0

    made: Any = create_accelerator(Clipping(), precision="fp32")
    with pytest.raises(ConfigurationError, match=r"clips gradients to 0\.5.*clips to nothing"):
        made.clip_grad_norm_([], 0.5)
