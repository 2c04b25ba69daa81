"""Names: registering and looking up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from acpt_trainer.errors import (
    ConfigurationError,
    UnknownStrategyError,
)
from acpt_trainer.registry import (
    StrategySpec,
    available_strategies,
    get_strategy,
    register_strategy,
    resolve_strategy,
)
from acpt_trainer.strategies.auto import AutoStrategy
from acpt_trainer.strategies.base import AcceleratorStrategy
from acpt_trainer.strategies.combined import CombinedStrategy
from acpt_trainer.strategies.compile import CompileStrategy
from acpt_trainer.strategies.ddp import DdpStrategy
from acpt_trainer.strategies.deepspeed import DeepSpeedStrategy
from acpt_trainer.strategies.eager import EagerStrategy
from acpt_trainer.strategies.fsdp import FsdpStrategy
from acpt_trainer.strategies.ortmodule import OrtStrategy

from .made_up_strategies import MadeUpEngine, MadeUpStrategy


class Fragile(MadeUpStrategy):
    """Breaks when it is built."""

    def __init__(self) -> None:
        raise RuntimeError("built")


# --- registering ---------------------------------------------------------------------------------


def test_registry_holds_exactly_these_names() -> None:
    assert available_strategies() == (
        "auto", "compile", "ddp", "ds", "ds_compile", "ds_ort", "fsdp", "no_acc", "ort",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "cls"),
    [
        ("no_acc", EagerStrategy),
        ("ort", OrtStrategy),
        ("ds", DeepSpeedStrategy),
        ("ds_ort", CombinedStrategy),
        ("ddp", DdpStrategy),
        ("compile", CompileStrategy),
        ("fsdp", FsdpStrategy),
        ("ds_compile", CombinedStrategy),
        ("auto", AutoStrategy),
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
        ("ort_ds", "ds_ort"),
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
    assert caught.value.problems[0].fix.startswith("registered are: auto, ")


def test_unknown_name_lists_what_is_missing_for_the_others(missing: Callable[..., None]) -> None:
    missing("deepspeed")
    with pytest.raises(UnknownStrategyError) as caught:
        get_strategy("xyzzy")
    install = "(not here: pip install 'acpt-trainer[deepspeed]')"
    assert caught.value.problems[0].fix == (
        f"registered are: auto, compile, ddp, ds {install}, ds_compile {install}, "
        f"ds_ort {install}, fsdp, no_acc, ort"
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
        assert "give one of: auto, compile, ddp, ds, ds_compile, ds_ort, fsdp, no_acc, ort" in str(
            caught.value
        )
