"""Each patch, symbolic and gradient is needed: with it things hold, and without it they fail.

A new one without an entry in a `*_needs.py` fails here, and so does one that nothing needs.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from patch_needs import GRADIENTS_NEEDED, HELD, PATCHES_NEEDED, SYMBOLICS_NEEDED
from strategy_runs import launch

from acpt_trainer.ort.patches import PATCHES

ENTER = "has no entry in tests/integration/*_needs.py; write what breaks without it"
LONG = 1500
"""Seconds for all attempts: each of about 140 takes up to a few seconds in a process of its own."""


def needs(*arguments: str) -> dict[str, Any]:
    script = __file__.replace("test_ort_patches_needed", "patch_needs")
    done = launch([script, *arguments], 1, timeout=LONG)
    assert done.returncode == 0, done.stderr[-6000:]
    printed: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return printed


@pytest.fixture(scope="module")
def tried() -> dict[str, Any]:
    return needs()


@pytest.fixture(scope="module")
def ours() -> dict[str, Any]:
    return needs("ours")


def check(outcomes: list[str], symptom: str = "") -> None:
    on, off = outcomes
    assert on == HELD, f"fails with everything on:\n{on}"
    assert off != HELD, "holds without it: it is not needed, or the scenario does not show why"
    assert symptom in off, f"{symptom!r} is not what happened:\n{off}"


@pytest.mark.long
@pytest.mark.timeout(LONG)
@pytest.mark.parametrize("patch", PATCHES, ids=lambda p: p.name)
def test_every_patch_has_a_test_that_needs_it(patch: Any, tried: dict[str, Any]) -> None:
    assert patch.name in PATCHES_NEEDED, f"the patch {patch.name} {ENTER}"
    if not patch.needed():
        pytest.skip("the installed versions do not need it")
    check(tried["patches"][patch.name], PATCHES_NEEDED[patch.name].symptom)


@pytest.mark.long
@pytest.mark.timeout(LONG)
@pytest.mark.parametrize("name", SYMBOLICS_NEEDED)
def test_symbolic_is_needed(name: str, tried: dict[str, Any]) -> None:
    check(tried["symbolics"][name])


@pytest.mark.long
@pytest.mark.timeout(LONG)
@pytest.mark.parametrize("key", GRADIENTS_NEEDED)
def test_gradient_is_needed(key: str, tried: dict[str, Any]) -> None:
    check(tried["gradients"][key])


def test_every_symbolic_has_a_test_that_needs_it(ours: dict[str, Any]) -> None:
    missing = set(ours["symbolics"]) - set(SYMBOLICS_NEEDED)
    missing |= set(ours["gradients"]) - set(GRADIENTS_NEEDED)
    assert not missing, f"{sorted(missing)} {ENTER}"


def test_every_entry_is_of_something_that_exists(ours: dict[str, Any]) -> None:
    assert set(PATCHES_NEEDED) == {p.name for p in PATCHES}
    assert set(SYMBOLICS_NEEDED) == set(ours["symbolics"])
    assert set(GRADIENTS_NEEDED) == set(ours["gradients"])
