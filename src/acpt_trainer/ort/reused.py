"""Memory of large gradients, used again: what the system hands out anew costs a fault a page."""

from __future__ import annotations

import collections
import math
from collections.abc import Hashable, Sequence

import torch

_memory: dict[Hashable, list[torch.UntypedStorage]] = collections.defaultdict(list)


def empty(key: Hashable, shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    """Memory that was asked for by the same key and is free again, or else new memory.

    What is free and too small is given back, so that a key has no more than was used at once.

    Args:
        key: Who asks.
        shape: Of the tensor.
        like: Says its type and device.
    """
    needed = math.prod(shape) * like.element_size()
    held = _memory[key]
    free = [s for s in held if torch._C._storage_Use_Count(s._cdata) == 1]  # type: ignore[attr-defined]
    for storage in free:
        if storage.nbytes() >= needed:
            return like.new_empty(0).set_(storage, 0, shape)
    out = like.new_empty(shape)
    small = {id(storage) for storage in free}
    _memory[key] = [*(s for s in held if id(s) not in small), out.untyped_storage()]
    return out


def clear() -> None:
    """Gives back what is free."""
    _memory.clear()
