"""How much memory a process used at most."""

from __future__ import annotations

import resource
import sys


def peak_memory_mb(device: str = "cpu") -> float:
    """Peak memory of this process.

    Args:
        device: `cuda` for memory allocated on the GPU, anything else for the process's resident
            memory.

    Returns:
        Megabytes (10^6 bytes), since the process (or the last reset of the GPU's peak) began.
    """
    if device == "cuda":
        import torch

        return float(torch.cuda.max_memory_allocated() / 1e6)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
