"""Strategies that other packages register: loaded late, and broken alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from acpt_trainer.errors import UnknownStrategyError
from acpt_trainer.registry import (
    ENTRY_POINTS,
    available_strategies,
    get_strategy,
)
from acpt_trainer.strategies.combined import CombinedStrategy
from acpt_trainer.strategies.ortmodule import OrtStrategy

from .made_up_strategies import MadeUpStrategy

EntryPoints = list[EntryPoint]


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
    combined = get_strategy("foreign+ort").build()
    assert isinstance(combined, CombinedStrategy)
    assert [part.name for part in combined.parts] == ["ort", "foreign"]


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
