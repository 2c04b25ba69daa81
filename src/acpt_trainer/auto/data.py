"""The first batches of a run, read without moving its position or its random states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from acpt_trainer.auto.randomness import kept_random_states
from acpt_trainer.errors import Problem

_MOST_BYTES = 256e6


@dataclass(frozen=True)
class Data:
    """What was read.

    Attributes:
        batches: Batches of this process, on the CPU.
        steps: Optimizer steps of the whole run.
    """

    batches: list[Any]
    steps: int


def read(trainer: Any, count: int) -> Data | Problem:
    """Reads batches of the training data twice, to see that they are the same again.

    Args:
        trainer: The trainer.
        count: How many batches; fewer where the data ends or they are large.

    Returns:
        What was read, or why a trial would change the run.
    """
    batches, steps = _read_once(trainer, count)
    again, _ = _read_once(trainer, 1)
    if not batches:
        return Problem("there is no training data", "train_dataset", "give some")
    if not again or not same(batches[0], again[0]):
        return Problem(
            "the training data is not the same when it is read again, so a trial would change the "
            "run",
            f"train_dataset of type {type(trainer.train_dataset).__name__}",
            "name a strategy instead of 'auto', or give data that can be read again from its start",
        )
    return Data(batches, steps)


def _read_once(trainer: Any, count: int) -> tuple[list[Any], int]:
    from accelerate.state import GradientState
    from accelerate.utils import send_to_device

    with kept_random_states(trainer.train_dataset, trainer.data_collator):
        loader = trainer.get_train_dataloader()
        steps = trainer.set_initial_training_values(trainer.args, loader)[-1]
        batches: list[Any] = []
        state = GradientState()
        open_before = state.dataloader_references
        with kept_random_states(loader):  # a trainer may keep its loader
            source = iter(loader)
            while len(batches) < count and sum(map(_bytes, batches)) < _MOST_BYTES:
                batch = next(source, None)
                if batch is None:
                    break
                batches.append(send_to_device(batch, "cpu"))
        state.dataloader_references = open_before  # Accelerate's loaders were left before their end
    return batches, steps


def _bytes(value: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors(value))


def tensors(value: Any) -> list[Any]:
    """The tensors in nested containers."""
    if hasattr(value, "element_size"):
        return [value]
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [t for item in value for t in tensors(item)]
    return []


def same(one: Any, other: Any) -> bool:
    """Whether two batches hold the same tensors."""
    import torch

    ours, theirs = tensors(one), tensors(other)
    pairs = zip(ours, theirs, strict=False)
    return len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in pairs)


def shapes(batches: Sequence[Any]) -> dict[str, str]:
    """By input, its type and shape; a size that varies is given by the next power of two."""
    found: dict[str, list[tuple[str, tuple[int, ...]]]] = {}
    for batch in batches:
        named = batch.items() if isinstance(batch, Mapping) else enumerate(tensors(batch))
        for name, value in named:
            for tensor in tensors(value):
                found.setdefault(str(name), []).append((str(tensor.dtype), tuple(tensor.shape)))
    return {name: _told(seen) for name, seen in sorted(found.items())}


def _told(seen: list[tuple[str, tuple[int, ...]]]) -> str:
    types, sizes = {t for t, _ in seen}, [s for _, s in seen]
    if len({len(s) for s in sizes}) > 1:
        return f"{sorted(types)} of several ranks"
    dims = [
        str(dim[0]) if len(set(dim)) == 1 else f"..{1 << (max(dim) - 1).bit_length()}"
        for dim in zip(*sizes, strict=True)
    ]
    return f"{' '.join(sorted(types))} ({', '.join(dims)})"
