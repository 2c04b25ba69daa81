"""Nothing is written out of bounds where ONNX Runtime's own export of a convolution does."""

from __future__ import annotations

import ctypes.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HEAP_CASE = Path(__file__).with_name("heap_case.py")
CHECKER = "libc_malloc_debug.so.0"


def watched(
    convolution: str, cache: Path, prefix: tuple[str, ...] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    """Trains the step under a checker; an export that was kept would hide which one is used."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACPT_TRAINER_CACHE": str(cache)}
    return subprocess.run(
        [*prefix, sys.executable, str(HEAP_CASE), convolution],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.skipif(not ctypes.util.find_library("c_malloc_debug"), reason="needs glibc's checker")
def test_grouped_convolution_is_clean_under_malloc_checks(tmp_path: Path) -> None:
    checks = {"LD_PRELOAD": CHECKER, "MALLOC_CHECK_": "3"}
    clean = watched("on", tmp_path / "on", **checks)
    assert (clean.returncode, clean.stdout) == (0, "finished\n"), clean.stderr
    torn = watched("off", tmp_path / "off", **checks)
    assert torn.returncode < 0, "ONNX Runtime's own export holds: the case shows nothing"


def invalid_accesses(report: str) -> list[str]:
    """What valgrind says of ONNX Runtime; the loader of libraries has errors of its own."""
    errors = re.split(r"^==\d+== *$", report, flags=re.MULTILINE)
    return [error for error in errors if "Invalid" in error and "onnxruntime" in error]


@pytest.mark.long
@pytest.mark.timeout(3200)
@pytest.mark.skipif(not shutil.which("valgrind"), reason="needs valgrind")
@pytest.mark.parametrize("convolution", ["on", "off"])
def test_grouped_convolution_is_clean_under_valgrind(convolution: str, tmp_path: Path) -> None:
    log = tmp_path / "valgrind.log"
    options = ("--undef-value-errors=no", "--leak-check=no", f"--log-file={log}")
    done = watched(convolution, tmp_path, ("valgrind", *options), PYTHONMALLOC="malloc")
    found = invalid_accesses(log.read_text())
    if convolution == "on":
        assert (done.returncode, done.stdout) == (0, "finished\n"), done.stderr
        assert not found, found[0]
    else:
        assert found, "ONNX Runtime's own export holds: the case shows nothing"
