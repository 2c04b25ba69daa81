"""What the name of an Azure machine size says of its GPUs."""

from __future__ import annotations

import re

_OLD = {
    # A name may end with _Promo. The sizes are those of Azure's lists of GPU machines.
    "K80": r"NC(6|12|24|24r)",
    "M60": r"NV(6|12|24|\d+s_v[23])",
    "P40": r"ND(6|12|24)r?s",
    "P100": r"NC\d+r?s_v2",
    "V100": r"NC\d+r?s_v3|ND40r?s_v2",
}


def has_gpu(size: str) -> bool:
    """Whether a size has GPUs: of Azure's series, N alone has."""
    return size.lower().startswith("standard_n")


def too_old_gpu(size: str) -> str | None:
    """The GPU of a size for which torch's CUDA 13 build has no code; it starts at 7.5 (T4)."""
    for gpu, names in _OLD.items():
        if re.fullmatch(rf"Standard_({names})(_Promo)?", size, re.IGNORECASE):
            return gpu
    return None
