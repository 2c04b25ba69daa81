"""What a figure was measured on: processor, cores, instruction sets, device, versions."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

_CPU_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16")


def cores() -> int:
    """The cores that this process may use."""
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


def cpu(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, Any]:
    """Model, cores and the instruction sets that matter to training; None where not known."""
    fields: dict[str, str] = {}
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        for key, _, value in (line.partition(":") for line in lines):
            fields.setdefault(key.strip(), value.strip())
    flags = fields["flags"].split() if "flags" in fields else None
    return {
        "model": fields.get("model name") or platform.processor() or platform.machine(),
        "cores": cores(),
        "features": None if flags is None else {f: f in flags for f in _CPU_FEATURES},
    }


def machine() -> dict[str, Any]:
    """The machine and the versions, as a result file names them."""
    import psutil
    import torch

    from acpt_trainer.report import versions

    count = torch.cuda.device_count()
    return {
        "cpu": cpu(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "cuda": [torch.cuda.get_device_name(i) for i in range(count)],
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "versions": versions(),
    }
