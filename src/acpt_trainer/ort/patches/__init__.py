"""Every patch that makes onnxruntime-training 1.19.2 run on current PyTorch, one reason each.

The lists are read by concern: `engine`, `exporter`, `models`, `graphs`, `tracing`. Their order is
the order in which they are applied.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import ExitStack

from acpt_trainer.ort.patch import Patch, Scope
from acpt_trainer.ort.patches import engine, exporter, graphs, models, tracing

PATCHES: tuple[Patch, ...] = (
    *engine.PATCHES,
    *exporter.PATCHES,
    *models.PATCHES,
    *graphs.PATCHES,
    *tracing.PATCHES,
)

_process: ExitStack | None = None
_active: tuple[str, ...] = ()
_users = 0


def start() -> tuple[str, ...]:
    """Applies the process-wide patches and imports ORTModule, for the first user.

    Returns:
        The names of the patches that are in place.

    Raises:
        ImportError: If onnxruntime-training is not installed.
    """
    global _process, _active, _users
    if _process is None:
        stack = ExitStack()
        try:
            applied = [p for p in PATCHES if p.scope is Scope.PROCESS and p.needed()]
            for patch in applied:
                patch.apply(stack)
        except BaseException:
            stack.close()
            raise
        _process, _active = stack, tuple(patch.name for patch in applied)
    _users += 1
    return _active


def stop() -> None:
    """Undoes the process-wide patches, once for the last user.

    ONNX Runtime stays imported, so starting again only applies them anew.
    """
    global _process, _active, _users
    _users = max(0, _users - 1)
    if _process is not None and not _users:
        _process.close()
        _process, _active = None, ()


def active() -> tuple[str, ...]:
    """Names of the process-wide patches in place; empty when no `ort` strategy runs."""
    return _active


@contextlib.contextmanager
def building() -> Iterator[None]:
    """Holds the patches that are needed while a training graph is exported and built."""
    with ExitStack() as stack:
        for patch in PATCHES:
            if patch.scope is Scope.BUILD and patch.needed():
                patch.apply(stack)
        yield
