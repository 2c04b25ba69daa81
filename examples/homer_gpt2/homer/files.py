"""Writes files so that a reader sees the old content or the new one, never a part of it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from acpt_trainer import ConfigurationError, Problem

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def sha256_of(content: bytes) -> str:
    """Returns the SHA-256 digest of `content` in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def file_sha256(path: Path) -> str | None:
    """Returns the SHA-256 digest of a file, or None if there is no such readable file."""
    try:
        return sha256_of(path.read_bytes())
    except OSError:
        return None


def write_atomically(contents: Mapping[Path, bytes]) -> None:
    """Writes several files; none is replaced before all are complete on the disk.

    Each file is first written to a temporary file in its own folder, so that the final rename
    stays within one file system. Folders are created as needed.

    Args:
        contents: What to write, by path. Files are replaced in this order.

    Raises:
        OSError: If the disk or the quota is full; the old files remain.
        ConfigurationError: If a file cannot be written for another reason.
    """
    staged: list[tuple[Path, Path]] = []
    path = Path()
    try:
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            staged.append((temporary, path))
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for temporary, path in staged:
            os.replace(temporary, path)
    except OSError as error:
        raise _explained(error, path) from error
    finally:
        for temporary, _ in staged:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def _explained(error: OSError, path: Path) -> Exception:
    if error.errno in _DISK_FULL:
        # The system's error for a full disk does not say which file it was.
        return OSError(error.errno, os.strerror(error.errno), str(path))
    return ConfigurationError(
        [
            Problem(
                f"cannot write the file: {error.strerror or error}",
                str(path),
                "choose a folder you may write to, or change the permissions of this one",
            )
        ],
        "Cannot write",
    )
