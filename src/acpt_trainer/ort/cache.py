"""Exported graphs kept between runs: ONNX files without weights, found by what they depend on.

An entry is `<key>.onnx` and, written after it, `<key>.json` with its checksum. The key is a digest
of the call's graph (see `preview`) and of everything else that shapes an export: versions, the
source of this package, ORTModule's variables, symbolics that others registered. What was torn,
changed or does not fit is made anew. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import inspect
import json
import logging
import os
import platform
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from acpt_trainer.ort.cache_dir import cache_dir, taking_turns

logger = logging.getLogger(__name__)

LIMIT = 1 << 30
"""Bytes that the folder may take; what was not used for the longest goes first."""

_FORMAT = 1
_PACKAGES = (
    "torch", "transformers", "onnx", "onnxruntime-training", "onnxruntime-training-cpu",
    "acpt-trainer",
)  # fmt: skip
_OWN = ("onnxruntime.", "acpt_trainer.")


class ExportCache:
    """The folder with exported graphs.

    Args:
        root: The folder to use instead of the user's; see `cache_dir`.
        limit: Bytes that it may take.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None, limit: int = LIMIT) -> None:
        self.root = root
        self.limit = limit

    @functools.cached_property
    def folder(self) -> Path:
        """Where the entries are; made at the first use, which raises OSError if it cannot be."""
        return cache_dir("exports", self.root)

    def key(self, digest: str) -> str:
        """The key of a graph, here and now."""
        text = json.dumps([_FORMAT, digest, surroundings()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @contextlib.contextmanager
    def turn(self, key: str) -> Iterator[None]:
        """Lets one process at a time look an entry up and make it; the others then find it.

        Raises:
            OSError: If the folder cannot be used, or another process holds an entry for too long.
        """
        with taking_turns(self.folder / key):
            yield

    def load(self, key: str) -> Any | None:
        """The `onnx.ModelProto` of an entry, or None if there is none that is whole."""
        import onnx

        manifest = self.folder / f"{key}.json"
        try:
            text = manifest.read_bytes()
        except FileNotFoundError:
            return None
        try:
            data = (self.folder / f"{key}.onnx").read_bytes()
            if json.loads(text)["sha256"] != hashlib.sha256(data).hexdigest():
                raise ValueError("its checksum differs")
            model = onnx.load_model_from_string(data)
        except Exception as error:
            # Half an entry, another program's file, a newer format: whatever it is, not ours.
            self.reject(key, f"{type(error).__name__}: {error}")
            return None
        with contextlib.suppress(OSError):
            os.utime(manifest)  # used just now
        return model

    def reject(self, key: str, why: str) -> None:
        """Says that an entry is no good, and takes it away."""
        logger.warning(
            "the exported graph in %s is made anew: %s", self.folder / f"{key}.onnx", why
        )
        self._remove(key)

    def store(self, key: str, model: Any, about: dict[str, Any]) -> None:
        """Keeps a graph.

        Args:
            key: Its key.
            model: The `onnx.ModelProto`.
            about: What to say about it to whoever opens the manifest.

        Raises:
            OSError: If the folder cannot be written.
        """
        data = model.SerializeToString(deterministic=True)
        checksum = hashlib.sha256(data).hexdigest()
        manifest = {"sha256": checksum, "bytes": len(data), **about, "versions": _versions()}
        self._write(f"{key}.onnx", data)
        # The manifest makes the entry valid, so it comes last.
        self._write(f"{key}.json", json.dumps(manifest, indent=2).encode())
        self._shrink(key)

    def _write(self, name: str, data: bytes) -> None:
        unfinished = self.folder / f"{name}.{os.getpid()}.tmp"
        try:
            unfinished.write_bytes(data)
            unfinished.replace(self.folder / name)
        finally:
            unfinished.unlink(missing_ok=True)

    def _shrink(self, newest: str) -> None:
        """Removes the entries that were not used for the longest, down to the limit."""
        used: list[tuple[float, int, str]] = []
        for path in self.folder.iterdir():
            with contextlib.suppress(OSError):  # another process removes, too
                if path.suffix == ".json":
                    size = (self.folder / f"{path.stem}.onnx").stat().st_size
                    used.append((path.stat().st_mtime, size, path.stem))
                elif path.suffix == ".tmp" and path.stat().st_mtime < time.time() - 86400:
                    path.unlink()  # of a process that died
        total = sum(size for _, size, _ in used)
        for _, size, key in sorted(used):
            if total <= self.limit or key == newest:
                break
            self._remove(key)
            total -= size

    def _remove(self, key: str) -> None:
        for suffix in ("json", "onnx"):
            with contextlib.suppress(OSError):
                (self.folder / f"{key}.{suffix}").unlink(missing_ok=True)


def surroundings() -> dict[str, Any]:
    """What an export depends on beside the model's graph."""
    from acpt_trainer.ort import patches

    return {
        "versions": _versions(),
        "source": _source_digest(),
        "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith("ORTMODULE_")},
        "patches": list(patches.active()),
        "symbolics": _foreign_symbolics(),
    }


@functools.cache
def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


@functools.cache
def _source_digest() -> str:
    """Of this package's files: the symbolics and patches are part of what an export is."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _foreign_symbolics() -> dict[str, str]:
    """Symbolics registered by others, such as torchvision, by the code they run.

    ONNX Runtime's own, of which some stay after a first export, go by its version; ours by the
    digest of the source.
    """
    from torch.onnx._internal.torchscript_exporter.registration import registry

    found = {}
    for name in sorted(registry.all_functions()):
        group = registry.get_function_group(name)
        for opset, function in sorted(group._functions._overrides.items() if group else ()):
            if inspect.unwrap(function).__module__.startswith(_OWN):
                continue
            found[f"{name} {opset}"] = hashlib.sha256(_code(function).encode()).hexdigest()
    return found


def _code(function: Any) -> str:
    """A function as text that is the same in every process."""
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", function)
    if not isinstance(code, types.CodeType):
        return f"{type(code).__qualname__} {getattr(function, '__qualname__', '')}"
    constants = [_code(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {constants}"
