"""Where things are kept between runs, and turns between processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from acpt_trainer.ort.cache_dir import cache_dir, taking_turns


def test_cache_dir_is_the_variables_then_xdgs_then_the_homes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("ACPT_TRAINER_CACHE", str(tmp_path / "own"))
    assert cache_dir("exports", tmp_path / "named") == tmp_path / "named/exports"
    assert cache_dir("exports") == tmp_path / "own/exports"
    monkeypatch.delenv("ACPT_TRAINER_CACHE")
    assert cache_dir("exports") == tmp_path / "xdg/acpt_trainer/exports"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    assert cache_dir("exports") == tmp_path / "home/.cache/acpt_trainer/exports"
    assert cache_dir("exports").is_dir()


def test_taking_turns_needs_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def acquire(self: Any) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with (
        pytest.raises(OSError, match="no locks on the file system"),
        taking_turns(tmp_path / "thing"),
    ):
        pytest.fail("went in")


def test_taking_turns_lets_go_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError), taking_turns(tmp_path / "thing"):
        raise NotImplementedError
    with taking_turns(tmp_path / "thing", seconds=1):
        pass


def test_taking_turns_keeps_another_process_out_until_it_ends(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys; from acpt_trainer.ort.cache_dir import taking_turns\n"
        "with taking_turns(pathlib.Path(sys.argv[1])):\n"
        "    print('in', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "thing")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdout is not None
    assert other.stdout.readline() == "in\n"
    with (
        pytest.raises(TimeoutError, match=r"thing\.lock"),
        taking_turns(tmp_path / "thing", seconds=0.1),
    ):
        pytest.fail("two at once")
    other.kill()  # a process that dies lets the next one in
    other.wait()
    with taking_turns(tmp_path / "thing", seconds=10):
        pass
    other.communicate()
