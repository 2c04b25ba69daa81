"""Several strategies as one: order, problems, evidence."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

from acpt_trainer.errors import Problem
from acpt_trainer.registry import register_strategy
from acpt_trainer.strategies.base import Status, StrategyStatus, TrainingContext
from acpt_trainer.strategies.combined import CombinedStrategy

from .made_up_strategies import MadeUpEngine, MadeUpStrategy, Wrapped

CPU = TrainingContext("fp32", "cpu")
SHARED = Problem("both say this", "somewhere", "mend it")


def pair(inner: dict[str, Any] | None = None, outer: dict[str, Any] | None = None) -> Any:
    """A combination with a list of what was done, outside given first on purpose."""
    calls: list[str] = []
    return CombinedStrategy(
        [MadeUpEngine(calls=calls, **(outer or {})), MadeUpStrategy(calls=calls, **(inner or {}))]
    ), calls


def test_combined_sorts_its_parts_inside_first() -> None:
    combined, _ = pair()
    assert [p.name for p in combined.parts] == ["made_up", "made_up_engine"]
    assert combined.checkpoint_format == "made_up"


def test_combined_wraps_inside_first_and_unwraps_outside_first() -> None:
    combined, calls = pair()
    model = object()
    wrapped = combined.wrap_model(model)
    assert isinstance(wrapped, Wrapped)
    assert isinstance(wrapped.inner, Wrapped)
    assert combined.unwrap_model(wrapped) is model
    combined.configure(None)
    combined.prepared(None, wrapped)
    combined.close()
    assert calls == [
        "wrap made_up",
        "wrap made_up_engine",
        "unwrap made_up_engine",
        "unwrap made_up",
        "configure made_up",
        "configure made_up_engine",
        "prepared made_up",
        "prepared made_up_engine",
        "close made_up_engine",
        "close made_up",
    ]


def test_combined_collects_problems_each_once() -> None:
    mine = Problem("the kettle is empty", "kettle", "fill it")
    combined, _ = pair({"found": (SHARED, mine)}, {"found": (SHARED,), "trains_in": ("bf16",)})
    found = combined.problems(CPU)
    assert found.count(SHARED) == 1
    assert mine in found
    assert len(found) == 3  # and the outer part does not train in fp32


def test_combined_trains_in_what_all_parts_do_in_the_outer_order() -> None:
    combined, _ = pair({"trains_in": ("fp32", "fp16")}, {"trains_in": ("bf16", "fp16", "fp32")})
    assert combined.precisions("cuda") == ("fp16", "fp32")
    combined, _ = pair({"trains_in": ("fp32",)}, {"trains_in": ("bf16",)})
    assert combined.precisions("cuda") == ()


def test_combined_options_are_by_part() -> None:
    register_strategy("kettle", MadeUpStrategy)
    combined = CombinedStrategy(["kettle", MadeUpEngine(level=7)], kettle={"level": 3})
    assert combined.options() == {"kettle": {"level": 3}, "made_up_engine": {"level": 7}}
    with pytest.raises(TypeError, match="unexpected keyword argument 'pot'"):
        CombinedStrategy(["kettle"], pot={"level": 3})


def test_combined_gives_accelerator_every_part_s_arguments() -> None:
    combined, _ = pair({"kwargs": {"a": 1}}, {"kwargs": {"b": 2}})
    assert combined.accelerator_kwargs(CPU) == {"a": 1, "b": 2}


def test_combined_requires_what_its_parts_do() -> None:
    modules = [r.module for r in CombinedStrategy(["ds", "ort"]).requires]
    assert modules == ["onnxruntime.training", "onnx", "deepspeed"]
    assert CombinedStrategy.requires == ()


ENGAGED = StrategyStatus.engaged({"steps": 2})
PENDING = StrategyStatus.pending("no step yet")
FELL_BACK = StrategyStatus.fell_back("it ran elsewhere", {"steps": 1})


@pytest.mark.parametrize(
    ("inner", "outer", "status", "reason"),
    [
        (ENGAGED, ENGAGED, Status.ENGAGED, None),
        (ENGAGED, PENDING, Status.PENDING, "made_up_engine: no step yet"),
        (PENDING, ENGAGED, Status.PENDING, "made_up: no step yet"),
        (PENDING, PENDING, Status.PENDING, "made_up: no step yet; made_up_engine: no step yet"),
        (FELL_BACK, ENGAGED, Status.FELL_BACK, "made_up: it ran elsewhere"),
        (PENDING, FELL_BACK, Status.FELL_BACK, "made_up_engine: it ran elsewhere"),
        (FELL_BACK, PENDING, Status.FELL_BACK, "made_up: it ran elsewhere"),
    ],
)
def test_combined_status_is_the_worst_of_its_parts(
    inner: StrategyStatus, outer: StrategyStatus, status: Status, reason: str | None
) -> None:
    combined, _ = pair({"said": inner}, {"said": outer})
    said = combined.status()
    assert (said.status, said.reason) == (status, reason)
    assert said.evidence == {"made_up": inner.evidence, "made_up_engine": outer.evidence}


@pytest.mark.parametrize(
    ("inner", "outer", "combined"),
    [(None, None, None), (None, 0.0, 0.0), (None, 1.5, 1.5), (0.0, None, 0.0)],
)
def test_combined_clips_to_what_its_engine_does(
    inner: float | None, outer: float | None, combined: float | None
) -> None:
    both, _ = pair()
    for part, norm in zip(both.parts, (inner, outer), strict=True):
        part.clips_to = lambda norm=norm: norm
    assert both.clips_to() == combined


def test_ds_ort_refuses_bf16_on_cpu_by_the_part_s_name() -> None:
    found = CombinedStrategy(["ds", "ort"]).problems(TrainingContext("bf16", "cpu"))
    assert [p.what for p in found] == ["strategy 'ort' does not train in bf16 on cpu"]


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs the extra 'deepspeed'")
def test_ds_ort_collects_the_problems_of_both(make_args: Callable[..., Any]) -> None:
    args = make_args()
    args.neftune_noise_alpha = 5.0
    combined = CombinedStrategy(["ds", "ort"], ds={"zero_stage": 3}, ort={"max_graphs": 0})
    text = str(combined.problems(TrainingContext("fp32", "cpu", args=args)))  # type: ignore[arg-type]
    for part in ("max_graphs is 0", "NEFTune", "ZeRO stage 3"):
        assert part in text


def test_ds_ort_checkpoints_are_deepspeed_s() -> None:
    assert CombinedStrategy(["ort", "ds"]).checkpoint_format == "deepspeed"


@pytest.mark.parametrize("parts", [("ort", "ort"), ("no_acc", "ds")])
def test_combined_refuses_parts_that_make_no_sense(parts: tuple[str, str]) -> None:
    with pytest.raises(Exception, match=r"twice|nothing accelerates"):
        CombinedStrategy(parts)
