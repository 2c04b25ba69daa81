"""Builds of DeepSpeed's operators that were killed: the next start would wait for ever."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from acpt_trainer.errors import Problem

PATIENCE = 900.0
"""Seconds that a build may take; DeepSpeed's for a CPU takes about one minute."""


def abandoned_builds(now: float | None = None) -> list[Problem]:
    """Locks of builds in torch's folder of extensions that are too old to be at work.

    `torch.utils.cpp_extension` takes a lock by creating a file, and waits while there is one. A
    process that is killed leaves it.

    Args:
        now: Seconds since the epoch; the clock's if None.
    """
    now = time.time() if now is None else now
    return [
        Problem(
            f"a build of DeepSpeed's {lock.parent.name} was begun "
            f"{(now - begun) / 60:.0f} minutes ago and has not ended; training would wait for it",
            str(lock),
            f"if nothing builds it now, it was killed: rm {lock}",
        )
        for lock in sorted(_extensions().glob("deepspeed_*/lock"))
        if now - (begun := lock.stat().st_mtime) > PATIENCE
    ]


def _extensions() -> Path:
    """Where torch builds extensions, as `torch.utils.cpp_extension._get_build_directory` has it."""
    import torch
    from torch.utils.cpp_extension import get_default_build_root

    chosen = os.environ.get("TORCH_EXTENSIONS_DIR")
    if chosen:
        return Path(chosen)
    cuda, hip = torch.version.cuda, torch.version.hip
    device = f"rocm{hip}" if hip else f"cu{cuda}" if cuda else "cpu"
    flags = getattr(sys, "abiflags", "")
    python = f"py{sys.version_info.major}{sys.version_info.minor}{flags}"
    return Path(get_default_build_root(), f"{python}_{device.replace('.', '')}")
