"""Writes in place that a trace loses: made through one tensor, and read through another.

Tensors that share memory are values of their own to the tracer. `y[:2].mul_(3)` changes the value
that stands for the slice; the one that stands for `y` is, in the graph, as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.weak import WeakIdKeyDictionary

from acpt_trainer.errors import GraphBuildError


class Aliases:
    """Which tensors the trace still has right, of those whose memory was written into."""

    def __init__(self) -> None:
        # By memory, which is kept so that no other takes its place: how often it was written into.
        self._writes: dict[int, tuple[int, Any]] = {}
        # How many of the writes the tensor's value in the trace knows of.
        self._known = WeakIdKeyDictionary()

    def lost(self, func: Any, args: Sequence[Any], tensors: Sequence[torch.Tensor]) -> bool:
        """Whether a function is about to read a value that the trace has not."""
        return any(
            self._known.get(t, 0) < self._count(t) and not self._is_put_back(func, args, t)
            for t in tensors
        )

    def called(self, tensors: Sequence[torch.Tensor], versions: Sequence[int], result: Any) -> None:
        """Takes note of what a function wrote into, and of what it returned.

        Args:
            tensors: Its arguments.
            versions: Theirs before it was called.
            result: What it returned.
        """
        written = [t for t, v in zip(tensors, versions, strict=True) if version(t) != v]
        if written:
            through = next((t for t in written if t is result), written[0])
            memory = through.untyped_storage()
            count = self._count(through) + 1
            self._writes[memory._cdata] = (count, memory)
            self._known[through] = count
        if not self._writes:
            return
        for tensor in tensors_in(result):
            count = self._count(tensor)
            if count and tensor not in self._known:
                self._known[tensor] = count

    def _count(self, tensor: torch.Tensor) -> int:
        if not self._writes or tensor.layout is not torch.strided:
            return 0
        return self._writes.get(tensor.untyped_storage()._cdata, (0, None))[0]

    def _is_put_back(self, func: Any, args: Sequence[Any], tensor: torch.Tensor) -> bool:
        """Whether it is the end of `y[i] += x`: the slice was written into, and is put back."""
        if func is not torch.Tensor.__setitem__ or tensor is not args[0]:
            return False
        value = args[2]
        return (
            isinstance(value, torch.Tensor)
            and self._known.get(value, 0) == self._count(tensor) == self._count(value)
            and self._known.get(tensor, 0) == self._count(tensor) - 1
        )


def version(tensor: torch.Tensor) -> int:
    """How often a tensor was written into; an inference tensor, which does not count, never."""
    return 0 if tensor.is_inference() else tensor._version


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors in a value and in its lists and tuples."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


def refuse_lost_write(reader: str) -> None:
    """Refuses to go on with a value that the trace has lost.

    Args:
        reader: What reads it.

    Raises:
        GraphBuildError: Always.
    """
    raise GraphBuildError(
        f"{reader} reads a tensor that was written into in place through another one, such as a "
        "slice or a view of it, and in a graph of ONNX Runtime the write is lost; assign to it "
        "instead (y[:2] = value), or compute a new tensor"
    )
