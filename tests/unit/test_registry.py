"""Names: registering, looking up, combining, and what other packages register."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest

from acpt_trainer.errors import (
    ConfigurationError,
    IncompatibleStrategiesError,
    UnknownStrategyError,
)
from acpt_trainer.registry import (
    ENTRY_POINTS,
    StrategySpec,
    available_strategies,
    get_strategy,
    register_strategy,
    resolve_strategy,
)
from acpt_trainer.strategies.base import AcceleratorStrategy, Layer
from acpt_trainer.strategies.combined import CombinedStrategy
from acpt_trainer.strategies.deepspeed import DeepSpeedStrategy
from acpt_trainer.strategies.eager import EagerStrategy
from acpt_trainer.strategies.ortmodule import OrtStrategy

from .made_up_strategies import MadeUpEngine, MadeUpStrategy

EntryPoints = list[EntryPoint]


class Fragile(MadeUpStrategy):
    """Breaks when it is built."""

    def __init__(self) -> None:
        raise RuntimeError("built")


def layers(strategy: AcceleratorStrategy) -> list[str]:
    assert isinstance(strategy, CombinedStrategy)
    return [part.name for part in strategy.parts]


# --- registering ---------------------------------------------------------------------------------


def test_registry_holds_exactly_these_names() -> None:
    assert available_strategies() == ("ds", "ds_ort", "no_acc", "ort")


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("no_acc", EagerStrategy),
        ("ort", OrtStrategy),
        ("ds", DeepSpeedStrategy),
        ("ds_ort", CombinedStrategy),
    ],
)
def test_registry_names_stand_for(name: str, cls: type[AcceleratorStrategy]) -> None:
    spec = get_strategy(name)
    built = spec.build()
    assert type(built) is cls is spec.load()
    assert built.label == name
    assert spec.description


def test_register_as_a_call() -> None:
    spec = register_strategy("kettle", MadeUpStrategy, level=3)
    assert spec == StrategySpec("kettle", MadeUpStrategy, {"level": 3}, "for tests")
    assert "kettle" in available_strategies()
    assert get_strategy("kettle") is spec


def test_register_as_a_decorator_returns_the_class() -> None:
    @register_strategy("kettle", description="boils", level=2)
    class Kettle(MadeUpStrategy):
        pass

    assert isinstance(Kettle, type)
    spec = get_strategy("kettle")
    assert (spec.load(), spec.description) == (Kettle, "boils")
    assert spec.build().options() == {"level": 2}


def test_register_takes_a_module_and_class_as_text() -> None:
    register_strategy("kettle", f"{MadeUpStrategy.__module__}:MadeUpStrategy")
    assert get_strategy("kettle").load() is MadeUpStrategy


def test_register_refuses_a_taken_name_without_override() -> None:
    with pytest.raises(ValueError, match="'ort' is already registered; pass override=True"):
        register_strategy("ort", MadeUpStrategy)
    with pytest.raises(ValueError, match="already registered"):
        register_strategy("ort")
    assert get_strategy("ort").load() is OrtStrategy

    register_strategy("ort", MadeUpStrategy, override=True)
    assert get_strategy("ort").load() is MadeUpStrategy

    register_strategy("ds", override=True)(MadeUpEngine)
    assert get_strategy("ds").load() is MadeUpEngine


@pytest.mark.parametrize("name", ["", "a+b", "+", " ort", "ort "])
def test_register_refuses_bad_names(name: str) -> None:
    with pytest.raises(ValueError, match="is no strategy name"):
        register_strategy(name, MadeUpStrategy)
    with pytest.raises(ValueError, match="is no strategy name"):
        register_strategy(name)
    assert name not in available_strategies()


# --- looking up ----------------------------------------------------------------------------------


def test_get_strategy_constructs_nothing() -> None:
    register_strategy("fragile", Fragile)
    spec = get_strategy("fragile")
    assert spec.problems() == []
    get_strategy("ds+fragile")
    with pytest.raises(RuntimeError, match="built"):
        spec.build()


def test_build_takes_options_over_the_preset() -> None:
    spec = register_strategy("kettle_3", MadeUpStrategy, level=3)
    assert spec.build().options() == {"level": 3}
    assert spec.build(level=5).options() == {"level": 5}
    assert spec.build().options() == {"level": 3}  # the preset is as it was
    assert spec.build() is not spec.build()


def test_build_labels_the_strategy_with_the_name_asked_for() -> None:
    register_strategy("kettle", MadeUpStrategy)
    assert get_strategy("kettle").build().label == "kettle"
    assert MadeUpStrategy().label == "made_up"


def test_build_refuses_an_unknown_option() -> None:
    with pytest.raises(ConfigurationError) as caught:
        get_strategy("ort").build(max_graph=3)
    (problem,) = caught.value.problems
    assert "'max_graph'" in problem.what
    assert problem.where == "options of strategy 'ort'"
    assert "OrtStrategy" in problem.fix


def test_build_lets_another_type_error_pass() -> None:
    class Picky(MadeUpStrategy):
        def __init__(self) -> None:
            raise TypeError("can only concatenate str")

    with pytest.raises(TypeError, match="can only concatenate"):
        register_strategy("picky", Picky).build()


def test_load_refuses_what_is_no_strategy() -> None:
    register_strategy("path", "pathlib:Path")
    with pytest.raises(TypeError, match=r"'path'.*Path.*is not an AcceleratorStrategy"):
        get_strategy("path").build()


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("dss", "ds"),
        ("noacc", "no_acc"),
        ("no-acc", "no_acc"),
        ("ORT", "ort"),
        ("ds-ort", "ds_ort"),
        ("ortt", "ort"),
        pytest.param(
            "ort_ds",
            "ds_ort",
        ),
    ],
)
def test_unknown_name_suggests_the_one_that_is_meant(asked: str, meant: str) -> None:
    with pytest.raises(UnknownStrategyError) as caught:
        get_strategy(asked)
    (problem,) = caught.value.problems
    assert problem.what == f"there is no strategy named {asked!r}"
    assert problem.where == f"strategy={asked!r}"
    assert problem.fix.startswith(f"did you mean {meant!r}? registered are: ")


def test_unknown_name_suggests_nothing_far_off() -> None:
    with pytest.raises(UnknownStrategyError) as caught:
        get_strategy("xyzzy")
    assert caught.value.problems[0].fix.startswith("registered are: ds, ")


def test_unknown_name_lists_what_is_missing_for_the_others(missing: Callable[..., None]) -> None:
    missing("deepspeed")
    with pytest.raises(UnknownStrategyError) as caught:
        get_strategy("xyzzy")
    install = "(not here: pip install 'acpt-trainer[deepspeed]')"
    assert caught.value.problems[0].fix == (
        f"registered are: ds {install}, ds_ort {install}, no_acc, ort"
    )


def test_spec_problems_say_what_is_missing(missing: Callable[..., None]) -> None:
    assert get_strategy("no_acc").problems() == []
    missing("deepspeed", "onnxruntime")
    fixes = [p.fix for p in get_strategy("ds_ort").problems()]
    assert fixes == ["pip install 'acpt-trainer[deepspeed]'", "pip install 'acpt-trainer[ort]'"]
    assert [p.fix for p in get_strategy("ort+ds").problems()] == fixes[::-1]
    assert [p.where for p in get_strategy("ds").problems()] == ["strategy='ds'"]


def test_resolve_strategy_returns_an_instance_as_it_is() -> None:
    given = MadeUpStrategy()
    assert resolve_strategy(given) is given
    assert isinstance(resolve_strategy("ort"), OrtStrategy)


@pytest.mark.parametrize("value", [None, 3, OrtStrategy, ["ort"]], ids=repr)
def test_resolve_strategy_refuses_anything_else(value: Any) -> None:
    for ask in (resolve_strategy, get_strategy):
        with pytest.raises(UnknownStrategyError) as caught:
            ask(value)
        assert "neither a strategy name nor an AcceleratorStrategy" in str(caught.value)
        assert "give one of: ds, ds_ort, no_acc, ort" in str(caught.value)


# --- combining -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ds+ort", "ort+ds", " ort + ds ", "ds_ort"])
def test_combined_order_is_by_layer_inside_first(name: str) -> None:
    strategy = get_strategy(name).build()
    assert layers(strategy) == ["ort", "ds"]
    assert strategy.label == name


def test_combined_options_reach_their_part() -> None:
    for name in ("ds_ort", "ort+ds"):
        built = get_strategy(name).build(ort={"max_graphs": 3}, ds={"zero_stage": 2})
        assert built.options() == {
            "ort": {"max_graphs": 3},
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


def test_combined_refuses_ort_with_fsdp_by_its_own_reason() -> None:
    register_strategy("fsdp", MadeUpEngine)
    with pytest.raises(IncompatibleStrategiesError, match="ORTModule needs whole parameters"):
        get_strategy("ort+fsdp")


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


# --- entry points --------------------------------------------------------------------------------


@pytest.fixture
def plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry_points: EntryPoints
) -> Iterator[str]:
    """A foreign package that registers `foreign`; gives its module's name."""
    name = "made_up_plugin"
    (tmp_path / f"{name}.py").write_text(
        f"from {MadeUpStrategy.__module__} import MadeUpEngine\n"
        "class Foreign(MadeUpEngine):\n    name = 'foreign'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    entry_points.append(EntryPoint("foreign", f"{name}:Foreign", ENTRY_POINTS))
    yield name
    sys.modules.pop(name, None)


def test_entry_point_is_loaded_when_it_is_built(plugin: str) -> None:
    assert "foreign" in available_strategies()
    spec = get_strategy("foreign")
    assert plugin not in sys.modules
    assert spec.build().name == "foreign"
    assert plugin in sys.modules


def test_entry_point_can_be_combined(plugin: str) -> None:
    assert layers(get_strategy("foreign+ort").build()) == ["ort", "foreign"]


def test_entry_point_does_not_replace_a_registered_name(entry_points: EntryPoints) -> None:
    entry_points.append(EntryPoint("ort", "made_up_nowhere:Ort", ENTRY_POINTS))
    assert get_strategy("ort").load() is OrtStrategy


def test_entry_points_are_read_once(entry_points: EntryPoints) -> None:
    available_strategies()
    entry_points.append(EntryPoint("late", "made_up_nowhere:Late", ENTRY_POINTS))
    assert "late" not in available_strategies()


def test_broken_entry_point_breaks_only_itself(entry_points: EntryPoints, plugin: str) -> None:
    entry_points.insert(0, EntryPoint("broken", "made_up_nowhere:Broken", ENTRY_POINTS))
    assert "broken" in available_strategies()
    assert get_strategy("foreign").build().name == "foreign"
    with pytest.raises(UnknownStrategyError, match=r"broken \(not here: mend or uninstall"):
        get_strategy("xyzzy")
    (problem,) = get_strategy("broken").problems()
    assert "No module named 'made_up_nowhere'" in problem.what
    with pytest.raises(ImportError, match="made_up_nowhere"):
        get_strategy("broken").build()


@pytest.mark.parametrize("value", ["made_up_plugin:Missing", "pathlib:Path"])
def test_entry_point_without_a_strategy_leaves_other_names_alone(
    entry_points: EntryPoints, plugin: str, value: str
) -> None:
    entry_points.append(EntryPoint("broken", value, ENTRY_POINTS))
    assert get_strategy("broken").problems()
    with pytest.raises(UnknownStrategyError):
        get_strategy("xyzzy")


def test_entry_point_with_an_unusable_name_leaves_other_names_alone(
    entry_points: EntryPoints, plugin: str
) -> None:
    entry_points.insert(0, EntryPoint("a+b", f"{plugin}:Foreign", ENTRY_POINTS))
    assert "foreign" in available_strategies()


def test_preset_of_a_missing_part_is_an_unknown_strategy() -> None:
    register_strategy("tea", CombinedStrategy, parts=("ds", "kettle"))
    with pytest.raises(UnknownStrategyError):
        get_strategy("xyzzy")
