"""Finding packages without importing them."""

from __future__ import annotations

import importlib
import logging
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from acpt_trainer.requirements import Requirement, import_deepspeed


@pytest.fixture
def fragile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package on the path that must not be imported."""
    package = tmp_path / "made_up_fragile"
    (package / "folder" / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (package / "leaf.py").write_text("raise RuntimeError('imported')\n")
    (package / "folder" / "deep" / "leaf.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    yield package.name
    assert not [name for name in sys.modules if name.startswith(package.name)]


def needs(module: str) -> Requirement:
    return Requirement(module, (module.split(".")[0],), "extra")


def test_requirement_is_found_without_importing(fragile: str) -> None:
    assert needs(fragile).installed()
    with pytest.raises(RuntimeError, match="imported"):  # it is as fragile as it says
        importlib.import_module(fragile)


@pytest.mark.parametrize(
    ("submodule", "found"),
    [
        ("leaf", True),
        ("folder", True),
        ("folder.deep.leaf", True),
        ("other", False),
        ("folder.leaf", False),
        ("leaf.folder", False),
    ],
)
def test_requirement_finds_submodules(fragile: str, submodule: str, found: bool) -> None:
    assert needs(f"{fragile}.{submodule}").installed() is found


def test_requirement_not_installed() -> None:
    assert not needs("made_up_package_that_is_nowhere").installed()
    assert not needs("made_up_package_that_is_nowhere.training").installed()
    assert not needs("json.no_such_leaf").installed()
    assert not needs("errno.leaf").installed()  # a module, not a package


def test_requirement_version_is_of_the_first_distribution_found() -> None:
    import importlib.metadata

    here = importlib.metadata.version("pytest")
    assert Requirement("pytest", ("made-up-nowhere", "pytest"), "dev").version() == here
    assert Requirement("pytest", ("made-up-nowhere",), "dev").version() is None


def test_requirement_problem_names_package_strategy_and_extra() -> None:
    requirement = Requirement("deepspeed", ("deepspeed", "deepspeed-nightly"), "deepspeed")
    problem = requirement.problem("my_ds")
    assert problem.what == "strategy 'my_ds' needs the package 'deepspeed', which is not installed"
    assert problem.where == "strategy='my_ds'"
    assert problem.fix == "pip install 'acpt-trainer[deepspeed]'"


@pytest.mark.parametrize(
    ("cuda", "before", "after"),
    [(False, None, "cpu"), (False, "xpu", "xpu"), (True, None, None)],
)
def test_import_deepspeed_is_quiet_and_looks_for_no_other_accelerator(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, before: str | None, after: str | None
) -> None:
    made_up = types.ModuleType("deepspeed")
    monkeypatch.setitem(sys.modules, "deepspeed", made_up)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    log = logging.getLogger("DeepSpeed")
    monkeypatch.setattr(log, "level", logging.INFO)
    if before is not None:
        monkeypatch.setenv("DS_ACCELERATOR", before)
    assert import_deepspeed() is made_up
    assert os.environ.get("DS_ACCELERATOR") == after
    assert log.level == logging.WARNING
