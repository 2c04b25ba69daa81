"""What every mend is made of: setting something and undoing it."""

from __future__ import annotations

import os
import sys
import types
from contextlib import ExitStack

import pytest

from acpt_trainer.ort import mends


class Base:
    inherited = "base"


class Owner(Base):
    plain = 1

    @classmethod
    def of_class(cls) -> str:
        return cls.__name__

    @staticmethod
    def static() -> str:
        return "static"

    def method(self) -> str:
        return "method"


@pytest.mark.parametrize("name", ["plain", "of_class", "static", "method"])
def test_set_restores_the_raw_attribute(name: str) -> None:
    raw = vars(Owner)[name]
    with ExitStack() as stack:
        mends.set_attribute(stack, Owner, name, "patched")
        assert getattr(Owner, name) == "patched"
    assert vars(Owner)[name] is raw
    assert (Owner.of_class(), Owner.static(), Owner().method()) == ("Owner", "static", "method")


@pytest.mark.parametrize("name", ["inherited", "absent"])
def test_set_removes_a_name_that_was_not_there(name: str) -> None:
    with ExitStack() as stack:
        mends.set_attribute(stack, Owner, name, "patched")
        assert getattr(Owner, name) == "patched"
    assert name not in vars(Owner)
    assert Owner.inherited == "base"


def test_set_twice_restores_the_first() -> None:
    raw = vars(Owner)["method"]
    with ExitStack() as stack:
        mends.set_attribute(stack, Owner, "method", "one")
        mends.set_attribute(stack, Owner, "method", "two")
    assert vars(Owner)["method"] is raw


def test_set_module_puts_back_what_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    parent, child = types.ModuleType("made_up"), types.ModuleType("made_up.child")
    parent.child = child  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "made_up", parent)
    monkeypatch.setitem(sys.modules, "made_up.child", child)
    new, other = types.ModuleType("made_up.child"), types.ModuleType("made_up.other")
    with ExitStack() as stack:
        mends.set_module(stack, "made_up.child", new)
        mends.set_module(stack, "made_up.other", other)
        assert sys.modules["made_up.child"] is parent.child is new
        assert sys.modules["made_up.other"] is parent.other is other  # type: ignore[attr-defined]
    assert sys.modules["made_up.child"] is parent.child is child
    assert "made_up.other" not in sys.modules
    assert not hasattr(parent, "other")


@pytest.mark.parametrize("before", [None, "cold"])
def test_set_variable_puts_back_what_was_there(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    if before is not None:
        monkeypatch.setenv("KETTLE", before)
    with ExitStack() as stack:
        mends.set_variable(stack, "KETTLE", "hot")
        assert os.environ["KETTLE"] == "hot"
    assert os.environ.get("KETTLE") == before
