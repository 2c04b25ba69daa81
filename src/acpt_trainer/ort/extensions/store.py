"""Extensions built once and kept in the user's cache, one entry for what a build depends on.

An entry is a folder with the library and a marker that holds the library's checksum. It is made in
a folder beside it and renamed, so it is there whole or not at all; one whose library is not what
the marker says is built again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from acpt_trainer import toolchain as tools
from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort.cache_dir import VARIABLE, cache_dir, cache_root, taking_turns
from acpt_trainer.ort.extensions.sources import ENTRY, Extension, edited

logger = logging.getLogger(__name__)

MARKER = "built.json"
_FLAGS = ("-O1", "-w")
_SUFFIX = ".so"

# In a process of its own: the user's process imports no compiler machinery, and keeps its
# environment. `load` also imports what it built, so a library that does not load is not kept.
_COMPILE = """
import json, sys
from torch.utils import cpp_extension
cpp_extension.load(**json.loads(sys.argv[1]))
"""

Compile = Callable[[Extension, Path, tools.Toolchain], Path]


def obtain(extension: Extension, compile: Compile | None = None) -> Path:
    """The extension's library, built if it is not in the cache.

    Args:
        extension: The extension.
        compile: Builds the sources in a folder and returns the library.

    Returns:
        Path of the library.

    Raises:
        GraphBuildError: If it cannot be built or kept, with what to install.
    """
    sources = edited(extension)
    toolchain = tools.find()
    try:
        folder = cache_dir("extensions")
        base = f"{extension.name}-{_hash(_fields(extension, sources))}"
        entry = folder / f"{base}-{_hash((toolchain.compiler, toolchain.version))}"
        # Without a compiler, what any compiler made for the same sources and versions will do.
        for kept in (entry,) if toolchain.compiler else sorted(folder.glob(f"{base}-*")):
            if library := intact(kept, extension.name):
                return library
        if missing := toolchain.missing():
            raise GraphBuildError(
                f"which is built at first use, and this machine lacks {' and '.join(missing)}",
                fix=f"install {' and '.join(missing)}",
            )
        with taking_turns(entry):
            if library := intact(entry, extension.name):
                return library  # another process built it meanwhile
            return _make(extension, entry, sources, toolchain, compile or compile_sources)
    except (OSError, TimeoutError) as error:
        raise GraphBuildError(
            f"which cannot be kept in the cache: {error}",
            fix=f"set {VARIABLE} to a folder that this process can write",
        ) from error


def kept(name: str) -> list[dict[str, Any]]:
    """What is built of an extension in the user's cache, for whichever versions.

    Nothing is made: without a cache there is nothing.

    Returns:
        For each entry its folder, whether its library is whole, and what its marker says of its
        versions and compiler.
    """
    found = []
    for entry in sorted((cache_root() / "extensions").glob(f"{name}-*")):
        if entry.is_dir() and (entry / MARKER).is_file():
            found.append(
                {"folder": str(entry), "intact": intact(entry, name) is not None}
                | {key: _marker(entry).get(key) for key in ("torch", "onnxruntime", "compiler")}
            )
    return found


def _marker(entry: Path) -> dict[str, Any]:
    """What an entry says of itself; empty where that cannot be read."""
    try:
        marker = json.loads((entry / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return marker if isinstance(marker, dict) else {}


def intact(entry: Path, name: str) -> Path | None:
    """The library of an entry, if it is the one that was built there."""
    library = entry / f"{name}{_SUFFIX}"
    try:
        whole = _marker(entry)["sha256"] == hashlib.sha256(library.read_bytes()).hexdigest()
    except (OSError, KeyError):
        return None
    return library if whole else None


def compile_sources(extension: Extension, folder: Path, toolchain: tools.Toolchain) -> Path:
    """Builds the sources in a folder with torch's own extension builder.

    Args:
        extension: The extension.
        folder: Holds the sources, and what is built.
        toolchain: What to build with.

    Returns:
        The library.

    Raises:
        GraphBuildError: If the build fails, with the compiler's first error.
    """
    options = {
        "name": extension.name,
        "sources": [str(folder / ENTRY)],
        "extra_cflags": list(_FLAGS),
        "build_directory": str(folder),
    }
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE, json.dumps(options)],
        env=toolchain.environment(),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        errors = [line for line in lines if "error:" in line]
        log = folder.with_suffix(".log")
        log.write_text("\n".join(lines), encoding="utf-8")
        raise GraphBuildError(
            f"and building it with {toolchain.version} failed: "
            f"{(errors or lines or ['no message'])[0 if errors else -1][:300]} (all of it: {log})",
            fix="set CXX to a C++20 compiler such as g++ 11 or newer",
        )
    return folder / f"{extension.name}{_SUFFIX}"


def _make(
    extension: Extension,
    entry: Path,
    sources: Mapping[str, str],
    toolchain: tools.Toolchain,
    compile: Compile,
) -> Path:
    """Builds an entry beside its place and moves it there."""
    logger.warning(
        "building ONNX Runtime's extension %s with %s, once, into %s; this takes about a minute",
        extension.name, toolchain.version, entry.parent,
    )  # fmt: skip
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix=f"{entry.name}.", dir=entry.parent) as scratch:
        for name, text in sources.items():
            Path(scratch, name).write_text(text, encoding="utf-8")
        built = compile(extension, Path(scratch), toolchain)
        made = Path(scratch) / "entry"
        made.mkdir()
        library = Path(shutil.copy(built, made / f"{extension.name}{_SUFFIX}"))
        seconds = round(time.perf_counter() - started, 1)
        marker = {
            **_fields(extension, sources),
            "compiler": toolchain.version,
            "seconds": seconds,
            "sha256": hashlib.sha256(library.read_bytes()).hexdigest(),
        }
        (made / MARKER).write_text(json.dumps(marker, indent=2), encoding="utf-8")
        shutil.rmtree(entry, ignore_errors=True)  # a torn one
        os.replace(made, entry)
    logger.warning("built ONNX Runtime's extension %s in %.1f s", extension.name, seconds)
    return entry / library.name


def _fields(extension: Extension, sources: Mapping[str, str]) -> dict[str, Any]:
    """What a build depends on beside its compiler."""
    import onnxruntime
    import torch

    return {
        "extension": extension.name,
        "torch": f"{torch.__version__} {torch.version.git_version}",
        "onnxruntime": onnxruntime.__version__,
        "python": sysconfig.get_config_var("SOABI"),
        "sources": _hash((_FLAGS, sorted(sources.items()))),
    }


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
