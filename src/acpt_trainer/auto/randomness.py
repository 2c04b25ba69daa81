"""Every random state of this process and of what belongs to the data, kept and put back."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

_DEPTH = 3
_MANY = 64
"""Longer containers hold data, not generators."""

Undo = Callable[[], None]


@contextlib.contextmanager
def kept_random_states(*owners: Any) -> Iterator[None]:
    """Leaves random states as they were.

    Args:
        *owners: Datasets, collators, samplers: generators among their attributes are kept as well.
    """
    undo = [*_process_states(), *(_kept(g) for o in owners for g in _generators(o, _DEPTH, set()))]
    try:
        yield
    finally:
        for put_back in undo:
            put_back()


def _process_states() -> Iterator[Undo]:
    import numpy as np
    import torch

    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield lambda: random.setstate(python)
    yield lambda: np.random.set_state(numpy)
    yield lambda: torch.set_rng_state(cpu) and None
    if torch.cuda.is_initialized():
        devices = torch.cuda.get_rng_state_all()
        yield lambda: torch.cuda.set_rng_state_all(devices) and None


def _kept(generator: Any) -> Undo:
    import numpy as np
    import torch

    if isinstance(generator, random.Random):
        python = generator.getstate()
        return lambda: generator.setstate(python)
    if isinstance(generator, np.random.Generator):
        bits, state = generator.bit_generator, generator.bit_generator.state
        return lambda: setattr(bits, "state", state)
    if isinstance(generator, torch.Generator):
        tensor = generator.get_state()
        return lambda: generator.set_state(tensor) and None
    numpy = generator.get_state()
    return lambda: generator.set_state(numpy) and None


def _generators(owner: Any, depth: int, seen: set[int]) -> Iterator[Any]:
    import numpy as np
    import torch

    if id(owner) in seen:
        return
    seen.add(id(owner))
    if isinstance(
        owner, (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
    ):
        yield owner
        return
    if depth == 0 or isinstance(owner, (torch.Tensor, torch.nn.Module, np.ndarray, type)):
        return
    inner = [*vars(owner).values()] if hasattr(owner, "__dict__") else []
    if isinstance(owner, dict) and len(owner) <= _MANY:
        inner += owner.values()
    elif isinstance(owner, (list, tuple)) and len(owner) <= _MANY:
        inner += owner
    for value in inner:
        yield from _generators(value, depth - 1, seen)
