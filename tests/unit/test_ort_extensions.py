"""Extensions on demand: what a build needs, its sources, and the cache; no compiler is run."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from acpt_trainer import toolchain
from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort import extensions
from acpt_trainer.ort.extensions import sources, store
from acpt_trainer.ort.extensions.sources import EXTENSIONS, INTEROP, Edit, Extension
from acpt_trainer.toolchain import Toolchain

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None, reason="needs the extra 'ort'"
)

WHOLE = Toolchain("g++", "g++ 99", "/bin/ninja", True, "g++")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ACPT_TRAINER_CACHE", str(tmp_path))
    monkeypatch.setattr(toolchain, "find", lambda: WHOLE)
    return tmp_path / "extensions"


class Compiler:
    """Stands in for the compiler: writes a library and counts."""

    def __init__(self) -> None:
        self.built: list[str] = []

    def __call__(self, extension: Extension, folder: Path, tools: Toolchain) -> Path:
        assert (folder / sources.ENTRY).is_file()
        self.built.append(extension.name)
        library = folder / "made.so"
        library.write_bytes(b"library")
        return library


# --- toolchain -----------------------------------------------------------------------------------


def made_up_program(folder: Path, name: str, says: str) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\necho '{says}'\n")
    program.chmod(0o755)


def test_toolchain_takes_the_compiler_that_cxx_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up_program(tmp_path, "made-up-c++", "made-up 1.2")
    monkeypatch.setenv("CXX", f"{tmp_path}/made-up-c++ -fancy")
    found = toolchain.find()
    assert (found.compiler, found.version) == (os.environ["CXX"], "made-up 1.2")


def test_toolchain_tries_the_usual_names_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up_program(tmp_path, "clang++", "clang 77")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}")
    found = toolchain.find()
    assert (found.compiler, found.version) == ("clang++", "clang 77")
    assert found.environment()["CXX"] == "clang++"


def test_toolchain_without_a_compiler_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/nonexistent")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolchain.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    compiler, ninja, headers = toolchain.find().missing()
    assert "package g++" in compiler
    assert "CXX=/nonexistent" in compiler
    assert "pip install ninja" in ninja
    assert "-dev" in headers


# --- sources -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXTENSIONS)
def test_edits_apply_to_the_installed_wheel(name: str) -> None:
    texts = sources.edited(EXTENSIONS[name])
    assert set(texts) == {
        *EXTENSIONS[name].headers,
        *EXTENSIONS[name].sources,
        sources.ENTRY,
    }
    for edit in EXTENSIONS[name].edits:
        assert edit.what.strip()
        assert edit.why.strip()
        assert edit.new in texts[edit.file]


def test_edit_that_does_not_apply_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "cpu" / INTEROP.name
    folder.mkdir(parents=True)
    for name in (*INTEROP.headers, *INTEROP.sources):
        text = (sources.folder() / "cpu" / INTEROP.name / name).read_text()
        (folder / name).write_text(text.replace("uint32_t y", "uint64_t y"))
    with pytest.raises(GraphBuildError, match=r"'whole addresses as keys'.*ctx_pool.cc.*0 times"):
        sources.edited(INTEROP, tmp_path)


def test_edit_counts_its_text() -> None:
    edit = Edit("a.cc", "once", "why", "old", "new")
    assert edit.apply("an old text") == "an new text"
    with pytest.raises(GraphBuildError, match="2 times, not 1"):
        edit.apply("old and old")


def test_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(GraphBuildError, match=r"torch_interop_utils/ctx_pool.h"):
        sources.edited(INTEROP, tmp_path)


# --- the cache -----------------------------------------------------------------------------------


def test_second_user_finds_what_the_first_built(cache: Path) -> None:
    compiler = Compiler()
    first, second = store.obtain(INTEROP, compiler), store.obtain(INTEROP, compiler)
    assert first == second
    assert compiler.built == ["torch_interop_utils"]
    marker = json.loads((first.parent / store.MARKER).read_text())
    assert marker["compiler"] == "g++ 99"
    assert {p.suffix for p in cache.iterdir()} == {"", ".lock"}  # and nothing half made


def test_users_at_the_same_time_build_once(cache: Path) -> None:
    compiler = Compiler()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: store.obtain(INTEROP, compiler), range(4)))
    assert len(set(found)) == 1
    assert len(compiler.built) == 1


def cut(library: Path) -> None:
    library.write_bytes(b"libr")


def unmark(library: Path) -> None:
    (library.parent / store.MARKER).unlink()


def garble(library: Path) -> None:
    (library.parent / store.MARKER).write_text('{"sha')


@pytest.mark.parametrize("tear", [cut, unmark, garble])
def test_torn_entry_is_built_again(cache: Path, tear: Callable[[Path], None]) -> None:
    compiler = Compiler()
    library = store.obtain(INTEROP, compiler)
    tear(library)
    assert store.obtain(INTEROP, compiler) == library
    assert library.read_bytes() == b"library"
    assert len(compiler.built) == 2


@pytest.mark.parametrize("what", ["torch", "onnxruntime", "compiler", "source"])
def test_entry_is_for_its_versions(cache: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    import onnxruntime
    import torch

    before = store.obtain(INTEROP, Compiler())
    if what == "torch":
        monkeypatch.setattr(torch, "__version__", "9.9")
    elif what == "onnxruntime":
        monkeypatch.setattr(onnxruntime, "__version__", "9.9")
    elif what == "compiler":
        other = Toolchain("g++", "g++ 100", "/bin/ninja", True, "g++")
        monkeypatch.setattr(toolchain, "find", lambda: other)
    else:
        texts = {**sources.edited(INTEROP), "ctx_pool.cc": "other"}
        monkeypatch.setattr(store, "edited", lambda extension: texts)
    assert store.obtain(INTEROP, Compiler()).parent != before.parent


def test_failed_build_leaves_nothing_to_load(cache: Path) -> None:
    def fails(*_: Any) -> Path:
        raise GraphBuildError("and building it failed: no.cc:1: error: no")

    with pytest.raises(GraphBuildError, match=r"no\.cc"):
        store.obtain(INTEROP, fails)
    assert [p.suffix for p in cache.iterdir()] == [".lock"]
    assert store.obtain(INTEROP, Compiler()).is_file()


def test_machine_without_a_compiler_takes_what_another_built(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = store.obtain(INTEROP, Compiler())
    bare = Toolchain(None, None, None, False, "c++")
    monkeypatch.setattr(toolchain, "find", lambda: bare)
    assert store.obtain(INTEROP) == built
    cut(built)
    with pytest.raises(GraphBuildError, match=r"package g\+\+.*ninja.*-dev"):
        store.obtain(INTEROP)


def test_cache_that_cannot_be_written_names_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ACPT_TRAINER_CACHE", str(tmp_path / "file"))
    with pytest.raises(GraphBuildError, match="cannot be kept") as raised:
        store.obtain(INTEROP, Compiler())
    assert "ACPT_TRAINER_CACHE" in (raised.value.fix or "")


# --- require -------------------------------------------------------------------------------------


def test_require_names_the_operator_and_what_to_install(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extensions, "_loaded", {})
    bare = Toolchain(None, None, "/bin/ninja", True, "c++")
    monkeypatch.setattr(toolchain, "find", lambda: bare)
    with pytest.raises(GraphBuildError, match=r"aten::made_up needs .*aten_op_exec") as raised:
        extensions.require("aten_op_executor", operator="aten::made_up")
    assert "package g++" in (raised.value.fix or "")
    assert extensions.loaded() == ()


def test_require_engages_an_extension_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = types.ModuleType("aten_op_executor")
    engaged: list[Any] = []
    monkeypatch.setattr(extensions, "_loaded", {})
    monkeypatch.setattr(extensions, "load", lambda name: made)
    monkeypatch.setitem(extensions._ENGAGE, "aten_op_executor", engaged.append)
    for _ in range(2):
        assert extensions.require("aten_op_executor", operator="aten::made_up") is made
    assert engaged == [made]
    assert extensions.loaded() == ("aten_op_executor",)


def test_what_is_built_and_loaded_is_shown_and_nothing_is_made(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from acpt_trainer.strategies.ort_inspect import extensions as shown

    monkeypatch.setattr(extensions, "_loaded", {})
    assert [(e["name"], e["loaded"], e["built"]) for e in shown()] == [
        ("torch_interop_utils", False, []),
        ("aten_op_executor", False, []),
    ]
    assert not cache.exists()
    library = store.obtain(INTEROP, Compiler())
    monkeypatch.setitem(extensions._loaded, INTEROP.name, types.ModuleType(INTEROP.name))
    first, second = shown()
    assert (first["loaded"], second["loaded"], second["built"]) == (True, False, [])
    (built,) = first["built"]
    assert (built["folder"], built["intact"]) == (str(library.parent), True)
    assert built["compiler"] == "g++ 99"
    garble(library)
    (torn,) = shown()[0]["built"]
    assert (torn["intact"], torn["torch"]) == (False, None)
