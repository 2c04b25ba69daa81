"""Memory of large gradients, used again: what the system hands out anew costs a fault a page."""

from __future__ import annotations

import collections

import torch

_memory: dict[torch.Size, list[torch.UntypedStorage]] = collections.defaultdict(list)


def empty(shape: torch.Size, like: torch.Tensor) -> torch.Tensor:
    """Memory that was of this shape in an earlier step and is free again, or else new memory.

    Args:
        shape: Of the tensor.
        like: Says its type and device.
    """
    for storage in _memory[shape]:
        if torch._C._storage_Use_Count(storage._cdata) == 1:  # type: ignore[attr-defined]
            return like.new_empty(0).set_(storage, 0, shape)
    out = like.new_empty(shape)
    _memory[shape].append(out.untyped_storage())
    return out


def clear() -> None:
    """Gives back what is free."""
    _memory.clear()
