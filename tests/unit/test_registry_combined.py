"""Names joined with `+`: their order, their options, and which pairs are refused."""

from __future__ import annotations

from typing import ClassVar

import pytest

from acpt_trainer.errors import (
    ConfigurationError,
    IncompatibleStrategiesError,
    UnknownStrategyError,
)
from acpt_trainer.registry import (
    get_strategy,
    register_strategy,
)
from acpt_trainer.strategies.base import AcceleratorStrategy, Layer
from acpt_trainer.strategies.combined import CombinedStrategy

from .made_up_strategies import MadeUpEngine, MadeUpStrategy


def layers(strategy: AcceleratorStrategy) -> list[str]:
    assert isinstance(strategy, CombinedStrategy)
    return [part.name for part in strategy.parts]


@pytest.mark.parametrize("name", ["ds+ort", "ort+ds", " ort + ds ", "ds_ort"])
def test_combined_order_is_by_layer_inside_first(name: str) -> None:
    strategy = get_strategy(name).build()
    assert layers(strategy) == ["ort", "ds"]
    assert strategy.label == name


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("ds_compile", ["compile", "ds"]),
        ("ddp+compile", ["compile", "ddp"]),
        ("ddp+ort", ["ort", "ddp"]),
    ],
)
def test_combined_pairs_that_fit(name: str, parts: list[str]) -> None:
    assert layers(get_strategy(name).build()) == parts


def test_combined_options_reach_their_part() -> None:
    for name in ("ds_ort", "ort+ds"):
        built = get_strategy(name).build(ort={"max_graphs": 3}, ds={"zero_stage": 2})
        assert built.options() == {
            "ort": {"max_graphs": 3, "cache": True, "recompute": None},
            "ds": {"config": None, "zero_stage": 2},
        }


def test_combined_refuses_options_of_no_part() -> None:
    with pytest.raises(ConfigurationError, match="unexpected keyword argument 'max_graphs'"):
        get_strategy("ds_ort").build(max_graphs=3)
    with pytest.raises(ConfigurationError, match="options of strategy 'ort'"):
        get_strategy("ds_ort").build(ort={"max_graph": 3})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("ort+ort", "'ort' is given twice"),
        ("no_acc+ort", "no_acc means that nothing accelerates the step"),
        ("ds+no_acc", "no_acc means that nothing accelerates the step"),
        ("ds_ort+ort", "one of them is a combination already"),
        ("ort+compile", "both swap the model's forward pass"),
        ("ddp+ds", "both own the distribution"),
        ("ds+fsdp", "both own the optimizer and the distribution"),
        ("fsdp+ddp", "both own the distribution"),
        ("ort+fsdp", "ORTModule needs whole parameters"),
        ("fsdp+compile", "FSDP changes the classes of the blocks after they are compiled"),
        ("ddp+no_acc", "no_acc means that nothing accelerates the step"),
    ],
)
def test_combined_refuses_pairs_that_make_no_sense(name: str, reason: str) -> None:
    with pytest.raises(IncompatibleStrategiesError) as caught:
        get_strategy(name)
    assert reason in str(caught.value)
    assert f"strategy={name!r}" in str(caught.value)


def test_combined_refuses_two_of_a_layer_with_the_reason() -> None:
    register_strategy("kettle", MadeUpStrategy)
    register_strategy("boiler", MadeUpEngine)
    with pytest.raises(IncompatibleStrategiesError) as caught:
        get_strategy("kettle+ort")
    assert caught.value.problems[0].what == (
        "'kettle' and 'ort' cannot be combined: both swap the model's forward pass"
    )
    assert caught.value.problems[0].fix == "choose 'kettle' or 'ort'"
    with pytest.raises(IncompatibleStrategiesError, match="both own the optimizer"):
        get_strategy("boiler+ds")
    assert layers(get_strategy("ds+kettle").build()) == ["made_up", "ds"]


@pytest.mark.parametrize("name", ["ort+sharded", "sharded+ort"])
def test_combined_refuses_registered_conflicts_either_way(name: str) -> None:
    class Sharded(MadeUpEngine):
        conflicts: ClassVar[dict[str, str]] = {"ort": "the kettle is in the way"}

    register_strategy("sharded", Sharded)
    with pytest.raises(IncompatibleStrategiesError, match="the kettle is in the way"):
        get_strategy(name)


def test_combined_conflicts_hold_for_another_preset_of_the_class() -> None:
    class Fsdp(MadeUpEngine):
        name: ClassVar[str] = "fsdp"

    register_strategy("fsdp_full", Fsdp, level=2)
    with pytest.raises(IncompatibleStrategiesError):
        get_strategy("ort+fsdp_full")


def test_combined_reports_all_conflicts_together() -> None:
    register_strategy("kettle", MadeUpStrategy)
    with pytest.raises(IncompatibleStrategiesError) as caught:
        get_strategy("ort+kettle+ort+ds")
    whats = [p.what for p in caught.value.problems]
    assert len(whats) == 3
    assert "'ort' is given twice" in whats


@pytest.mark.parametrize("name", ["ort+kettle", "kettle+ort", "ort+", "+", "ort++ds"])
def test_combined_refuses_unknown_names(name: str) -> None:
    with pytest.raises(UnknownStrategyError, match=r"Cannot combine strategies.*"):
        get_strategy(name)


def test_combined_lists_every_unknown_name() -> None:
    with pytest.raises(UnknownStrategyError) as caught:
        get_strategy("dss+ortt")
    assert len(caught.value.problems) == 2
    assert layer_order() == sorted(layer_order())


def layer_order() -> list[Layer]:
    return [get_strategy(name).load().layer for name in ("ort", "ds")]


def test_preset_of_a_missing_part_is_an_unknown_strategy() -> None:
    register_strategy("tea", CombinedStrategy, parts=("ds", "kettle"))
    with pytest.raises(UnknownStrategyError):
        get_strategy("xyzzy")
