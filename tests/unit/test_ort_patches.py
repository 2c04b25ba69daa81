"""The patches of ONNX Runtime training: each one described, each one undone."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from acpt_trainer.ort import mends, patches
from acpt_trainer.ort.patch import Patch, Scope
from acpt_trainer.ort.patches import PATCHES

FALLBACK = ("ORTMODULE_FALLBACK_POLICY", "ORTMODULE_FALLBACK_RETRY")

needs_onnxruntime = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="needs the extra 'ort'"
)


class Owner:
    """What made-up patches change."""

    plain = 1


def made_up(
    name: str,
    apply: Callable[[ExitStack], None],
    scope: Scope = Scope.PROCESS,
    needed: bool = True,
) -> Patch:
    return Patch(name, "it", "all", "why", "none", "never", scope, lambda: needed, apply)


@pytest.fixture
def no_process_patches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is applied when the test begins, and what it applies is forgotten."""
    monkeypatch.setattr(patches, "_process", None)
    monkeypatch.setattr(patches, "_active", ())
    monkeypatch.setattr(patches, "_users", 0)
    yield
    patches.stop()


@pytest.fixture
def without_symbolics(monkeypatch: pytest.MonkeyPatch) -> None:
    """All patches but those that need ORTModule to be imported."""
    needing = {
        "symbolics",
        "submodule-modes",
        "gradient-flow",
        "gradient-cuts",
        "told-outputs",
        "kept-promises",
        "split-gradients",
        "whole-recurrences",
        "export-cache",
        "no-memory-probe",
        "no-repeated-dropout",
        "no-inlined-functions",
    }
    rest = tuple(p for p in PATCHES if p.name not in needing)
    assert len(rest) == len(PATCHES) - len(needing)
    monkeypatch.setattr(patches, "PATCHES", rest)


# --- descriptions --------------------------------------------------------------------------------


def test_patches_have_unique_names() -> None:
    names = [p.name for p in PATCHES]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("patch", PATCHES, ids=lambda p: p.name)
def test_patch_says_what_it_is_for(patch: Patch) -> None:
    for field in dataclasses.fields(patch):
        value = getattr(patch, field.name)
        if field.type == "str":
            assert value.strip() == value != "", field.name
    assert isinstance(patch.scope, Scope)
    assert isinstance(patch.needed(), bool)
    assert "onnxruntime#" in patch.upstream or "https://" in patch.upstream


# --- building ------------------------------------------------------------------------------------


def build_state() -> dict[str, Any]:
    import torch.onnx

    return {
        "export": torch.onnx.export,
        "environment": {name: os.environ.get(name) for name in FALLBACK},
    }


def use_building(fail: bool) -> dict[str, Any]:
    with patches.building():
        state = build_state()
        if fail:
            raise RuntimeError("the export failed")
    return state


@pytest.mark.parametrize("fail", [False, True])
@pytest.mark.parametrize("before", [None, "FALLBACK_FORCE_TORCH_FORWARD"])
def test_building_restores_everything(
    without_symbolics: None, monkeypatch: pytest.MonkeyPatch, fail: bool, before: str | None
) -> None:
    if before is not None:
        monkeypatch.setenv(FALLBACK[0], before)
    outside = build_state()
    if fail:
        with pytest.raises(RuntimeError, match="the export failed"):
            use_building(fail)
    else:
        inside = use_building(fail)
        assert inside["environment"] == {FALLBACK[0]: "FALLBACK_DISABLE", FALLBACK[1]: "false"}
        assert inside["export"] is not outside["export"]
    assert build_state() == outside


def test_building_exports_with_the_torchscript_exporter(
    without_symbolics: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch.onnx

    asked: list[Any] = []
    monkeypatch.setattr(torch.onnx, "export", lambda *a, **k: asked.append(k))
    with patches.building():
        torch.onnx.export("model")
        torch.onnx.export("model", dynamo=True)  # who asks for the other one gets it
    assert asked == [{"dynamo": False}, {"dynamo": True}]


def test_building_applies_only_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    applied: list[str] = []

    def note(name: str, **options: Any) -> Patch:
        return made_up(name, lambda stack: applied.append(name), **options)

    monkeypatch.setattr(
        patches,
        "PATCHES",
        (
            note("build", scope=Scope.BUILD),
            note("inert", scope=Scope.BUILD, needed=False),
            note("process"),
        ),
    )
    with patches.building():
        assert applied == ["build"]


def test_building_that_cannot_start_undoes_what_it_applied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def first(stack: ExitStack) -> None:
        mends.set_attribute(stack, Owner, "plain", 2)

    def second(stack: ExitStack) -> None:
        raise ImportError("no engine")

    monkeypatch.setattr(
        patches,
        "PATCHES",
        (made_up("first", first, Scope.BUILD), made_up("second", second, Scope.BUILD)),
    )
    with pytest.raises(ImportError, match="no engine"), patches.building():
        pytest.fail("it began")
    assert Owner.plain == 1


# --- the whole process ---------------------------------------------------------------------------


def test_start_and_stop(no_process_patches: None, monkeypatch: pytest.MonkeyPatch) -> None:
    undone: list[str] = []

    def note(name: str) -> Callable[[ExitStack], None]:
        return lambda stack: stack.callback(undone.append, name) and None

    monkeypatch.setattr(
        patches,
        "PATCHES",
        (
            made_up("one", note("one")),
            made_up("inert", note("inert"), needed=False),
            made_up("later", note("later"), Scope.BUILD),
            made_up("two", note("two")),
        ),
    )
    assert patches.active() == ()
    assert patches.start() == patches.start() == patches.active() == ("one", "two")
    assert undone == []
    patches.stop()
    patches.stop()
    assert undone == ["two", "one"]
    assert patches.active() == ()
    assert patches.start() == ("one", "two")  # again is allowed


def test_stop_waits_for_the_last_user(
    no_process_patches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    undone: list[str] = []
    one = made_up("one", lambda stack: stack.callback(undone.append, "one") and None)
    monkeypatch.setattr(patches, "PATCHES", (one,))
    patches.start()
    patches.start()
    patches.stop()
    assert (undone, patches.active()) == ([], ("one",))
    patches.stop()
    assert (undone, patches.active()) == (["one"], ())
    patches.stop()  # once more than started is no debt
    patches.start()
    assert patches.active() == ("one",)
    patches.stop()
    assert patches.active() == ()


@pytest.mark.parametrize("error", [ImportError("no engine"), KeyboardInterrupt()], ids=repr)
def test_start_that_fails_half_way_undoes_what_it_applied(
    no_process_patches: None, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def first(stack: ExitStack) -> None:
        mends.set_attribute(stack, Owner, "plain", 2)
        mends.set_attribute(stack, Owner, "absent", 2)

    def second(stack: ExitStack) -> None:
        assert Owner.plain == 2
        raise error

    monkeypatch.setattr(patches, "PATCHES", (made_up("first", first), made_up("second", second)))
    with pytest.raises(type(error)):
        patches.start()
    assert Owner.plain == 1
    assert not hasattr(Owner, "absent")
    assert patches.active() == ()
    with pytest.raises(type(error)):  # not half started: the next start tries again
        patches.start()


WHOLE_PROCESS = """
import os, sys
import torch, torch.utils.checkpoint
from acpt_trainer.ort import patches

MODULES = [
    "torch.onnx._internal.jit_utils", "torch.onnx._internal.registration", "torch.onnx._globals",
    "torch.onnx._type_utils", "onnxruntime.training.ortmodule.torch_cpp_extensions",
]
def state():
    import torch.onnx
    return {
        "seed": torch.manual_seed, "cuda_seed": torch.cuda.manual_seed,
        "checkpoint": torch.utils.checkpoint.checkpoint, "export": torch.onnx.export,
        "modules": [sys.modules.get(m) for m in MODULES],
        "attributes": ["_internal.jit_utils" in str(vars(torch.onnx._internal).get("jit_utils")),
                       "_globals" in vars(torch.onnx), "_type_utils" in vars(torch.onnx)],
        "environment": {k: v for k, v in os.environ.items() if k.startswith("ORTMODULE_")},
    }
before = state()
for turn in range(2):
    active = patches.start()
    from onnxruntime.training.ortmodule import ORTModule
    assert state()["seed"] is before["seed"], "torch.manual_seed is another"
    assert state()["checkpoint"] is before["checkpoint"], "checkpoint is another"
    with patches.building():
        assert state()["export"] is not before["export"]
    assert state()["export"] is before["export"]
    patches.stop()
    now = state()
    wrong = [k for k in before if now[k] != before[k]]
    assert not wrong, (turn, wrong, [now[k] for k in wrong])
print(*active)
"""


@needs_onnxruntime
def test_start_with_the_real_engine_leaves_the_process_as_it_was(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = run_python("-c", WHOLE_PROCESS)
    assert done.returncode == 0, done.stderr
    applied = done.stdout.splitlines()[-1].split()
    assert applied == [p.name for p in PATCHES if p.name in applied]  # in their order
    assert {"contained-import", "shared-threads"} <= set(applied)
