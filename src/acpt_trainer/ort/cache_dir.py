"""Where exported graphs and built extensions are kept between runs, and how processes take turns.

One folder of the user's, never site-packages: `ACPT_TRAINER_CACHE`, or `acpt_trainer` in
`XDG_CACHE_HOME`, which is `~/.cache` unless it is set.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

VARIABLE = "ACPT_TRAINER_CACHE"


def cache_dir(kind: str, root: str | os.PathLike[str] | None = None) -> Path:
    """The folder for one kind of thing that is kept, made if it is not there.

    Args:
        kind: What is kept: `exports` or `extensions`.
        root: The folder to use instead of the user's.

    Returns:
        The folder.

    Raises:
        OSError: If it is not there and cannot be made.
    """
    folder = (cache_root() if root is None else Path(root).expanduser()) / kind
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cache_root() -> Path:
    """The user's folder for everything that is kept; it may not be there yet."""
    return Path(os.environ.get(VARIABLE) or default_root()).expanduser()


def default_root() -> Path:
    """The user's folder where `ACPT_TRAINER_CACHE` names none."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a path that is not absolute is to be ignored.
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "acpt_trainer"


@contextlib.contextmanager
def taking_turns(path: Path, seconds: float = 600.0) -> Iterator[None]:
    """Lets one process at a time in; the lock goes with the process that holds it, if that dies.

    Args:
        path: What is to be made by one process; the lock file stands beside it.
        seconds: How long to wait for another process.

    Raises:
        TimeoutError: If another process held it for that long.
        OSError: If the lock file cannot be made, or the file system has no locks.
    """
    import filelock  # comes with torch

    lock = filelock.FileLock(path.with_name(path.name + ".lock"), timeout=seconds)
    try:
        lock.acquire()
    except NotImplementedError as error:  # filelock's word for it
        raise OSError(f"no locks on the file system of {path.parent}") from error
    try:
        yield
    finally:
        lock.release()
