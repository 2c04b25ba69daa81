"""What this machine has to build a C++ extension with; looked up without importing torch."""

from __future__ import annotations

import functools
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

COMPILERS = ("c++", "g++", "clang++")
"""Tried in this order where `CXX` names none."""


@dataclass(frozen=True)
class Toolchain:
    """A C++ compiler and what else building an extension takes.

    Attributes:
        compiler: The compiler's command as `CXX` takes it, or None.
        version: First line of its `--version`, or None.
        ninja: Path of ninja, or None.
        headers: Whether Python's own headers are here.
        looked_for: What was looked for as a compiler.
    """

    compiler: str | None
    version: str | None
    ninja: str | None
    headers: bool
    looked_for: str

    def missing(self) -> tuple[str, ...]:
        """What an extension cannot be built without, each with the package to install."""
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        needs = (
            (self.compiler is None, f"a C++ compiler (package g++; looked for {self.looked_for})"),
            (self.ninja is None, "ninja (pip install ninja)"),
            (not self.headers, f"Python's headers (package {python}-dev)"),
        )
        return tuple(need for lacks, need in needs if lacks)

    def environment(self) -> dict[str, str]:
        """The environment to build in: this compiler, and ninja on the path."""
        beside = [os.path.dirname(self.ninja)] if self.ninja else []
        path = os.pathsep.join((*beside, os.environ.get("PATH", os.defpath)))
        return {**os.environ, "CXX": self.compiler or "", "PATH": path}


def find() -> Toolchain:
    """Looks for a compiler, ninja and Python's headers."""
    asked = os.environ.get("CXX", "").strip()
    candidates = (asked,) if asked else COMPILERS
    compiler, version = None, None
    for command in candidates:
        version = _version(command, os.environ.get("PATH"))
        if version is not None:
            compiler = command
            break
    # Beside the interpreter too: an environment that is not activated is not on the path.
    beside = os.pathsep.join((sysconfig.get_path("scripts"), str(Path(sys.executable).parent)))
    return Toolchain(
        compiler=compiler,
        version=version,
        ninja=shutil.which("ninja") or shutil.which("ninja", path=beside),
        headers=(Path(sysconfig.get_path("include")) / "Python.h").is_file(),
        looked_for=f"CXX={asked}" if asked else ", ".join(COMPILERS),
    )


@functools.cache
def _version(command: str, path: str | None) -> str | None:
    """What a compiler says that it is, or None where it does not run."""
    try:
        words = shlex.split(command)
        done = subprocess.run(
            [*words, "--version"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, ValueError, IndexError, subprocess.SubprocessError):
        return None
    return (done.stdout.strip().splitlines() or [words[0]])[0]
