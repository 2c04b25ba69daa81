"""What Python reads from tensors while a model is traced: followed, guarded, or refused.

A trace records what was done to tensors. What Python reads from one (`bool`, `int`, `item`, ...) it
does not see: the branch that was taken, or the number that was read, is fixed in the graph. What
becomes of a read depends on where the value comes from:

* from a constant: nothing, it cannot change;
* from shapes: it is guarded. The graph computes it at every step and is used only where it is what
  it was; otherwise the model is exported again;
* from inputs, weights or random numbers: it is refused, unless it only decides whether to raise.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import CodeType
from typing import Any

import torch
from torch import nn

from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort import place
from acpt_trainer.ort.mends import set_attribute
from acpt_trainer.ort.origin import Origin, only_raises, origin, settled
from acpt_trainer.ort.symbolics.recurrence import PACKED

READERS = (
    "__bool__", "__int__", "__float__", "__index__", "__complex__", "__contains__", "__array__",
    "item", "tolist", "numpy", "is_nonzero", "equal", "allclose",
)  # fmt: skip
"""Methods of a tensor that give Python its value."""

MEASURERS = ("__len__", "__iter__")
"""Methods of a tensor that give Python its first size."""


HARMLESS: dict[tuple[str, str], str] = {
    ("masking_utils.py", "_preprocess_mask_arguments"): (
        "position ids of one row are expanded to the batch; a batch of one is expanded to itself"
    ),
}
"""Conditions on shapes, by file and function, of which the branch for True does for all: why."""


@dataclass(frozen=True)
class Guard:
    """One value that was read from shapes and is fixed in the graph.

    Attributes:
        what: The reading, and where it was.
        value: What was read, as numbers.
    """

    what: str
    value: tuple[float, ...]


@dataclass
class Reads:
    """What was read while one call was traced.

    Attributes:
        model: The model that is traced.
        guards: Values that were read from shapes.
        checks: Reads that only decide whether the model raises; they are made once.
    """

    model: nn.Module
    guards: list[Guard] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)
    _tensors: list[torch.Tensor] = field(default_factory=list)
    _seen: set[int] = field(default_factory=set)

    def note(self, tensor: torch.Tensor, how: str) -> bool | None:
        """Guards or refuses one read.

        Returns:
            What to read instead, where the branch for one value does for all.

        Raises:
            GraphBuildError: If the value depends on data or chance.
        """
        value = torch._C._get_value_trace(tensor)
        came_from = origin(value)
        if came_from is Origin.CONSTANT or settled(value.node()):
            return None
        frame = place.model_frame()
        if came_from is Origin.SHAPE:
            if frame is not None and how == "__bool__" and _does_for_all(frame.f_code):
                return True
            self._guard(tensor, value.unique(), how)
            return None
        where = place.here(self.model)
        if frame is not None and only_raises(frame):
            self.checks.append(str(where))
            return None
        if place.runs_in("nn/modules/rnn.py"):  # it asks how many rows the first step has
            raise Refused(f"a recurrent layer takes a packed sequence: {PACKED}", where)
        raise Refused(_refusal(how, came_from), where)

    def _guard(self, tensor: torch.Tensor, number: int, how: str) -> None:
        if number in self._seen:
            return
        self._seen.add(number)
        flat = tensor.detach().reshape(-1).to(torch.float64)
        read = tuple(_original["tolist"](flat))
        self._tensors.append(flat)
        self.guards.append(Guard(f"{_spoken(how)} at {place.here(self.model)}", read))

    def output(self, nothing: torch.Tensor) -> torch.Tensor:
        """All guarded values as one output of the graph.

        Args:
            nothing: An empty tensor made from an input. ONNX Runtime folds what depends on no
                input, and then does not find the output that it folded.
        """
        return torch.cat([*(t.to(nothing.device) for t in self._tensors), nothing])


class Refused(GraphBuildError):
    """What no graph can follow, such as a read, and its place."""

    def __init__(self, what: str, where: place.Place, fix: str | None = None) -> None:
        self.where = where
        super().__init__(what, fix)


def changed(guards: list[Guard], output: torch.Tensor) -> list[str]:
    """The guards whose values differ from what the graph was made for."""
    if not guards:
        return []
    now = output.tolist()
    if now == [number for guard in guards for number in guard.value]:
        return []
    found, position = [], 0
    for guard in guards:
        size = len(guard.value)
        values = tuple(now[position : position + size])
        position += size
        if values != guard.value:
            found.append(f"{guard.what} was {_number(guard.value)} and is {_number(values)}")
    return found or ["the number of values that Python read from shapes"]


def _does_for_all(code: CodeType) -> bool:
    return (os.path.basename(code.co_filename), code.co_name) in HARMLESS


def _number(values: tuple[float, ...]) -> str:
    return ", ".join(f"{v:g}" for v in values[:4])


def _spoken(how: str) -> str:
    return f"{how.strip('_')}()"


def _refusal(how: str, came_from: Origin) -> str:
    source = {
        Origin.DATA: "the values of tensors",
        Origin.RANDOM: "a random number of torch's",
    }[came_from]
    return (
        f"Python reads a value with {_spoken(how)} that depends on {source}; "
        "what it found would be fixed in the graph for every later step"
    )


# --- watching ------------------------------------------------------------------------------------

_current: Reads | None = None
_muted = 0
_original: dict[str, Callable[..., Any]] = {"tolist": torch.Tensor.tolist}


@contextlib.contextmanager
def noted(reads: Reads) -> Iterator[None]:
    """Has what is read while this call is traced noted in `reads`."""
    global _current
    before, _current = _current, reads
    try:
        yield
    finally:
        _current = before


@contextlib.contextmanager
def mute() -> Iterator[None]:
    """Has what is read for the time being not noted: the tracer follows it, or it was noted."""
    global _muted
    _muted += 1
    try:
        yield
    finally:
        _muted -= 1


def tell(values: Iterable[Any], how: str) -> bool | None:
    """Notes a read of each tensor among some values, if a call is being traced.

    Returns:
        What to read instead, if it is to be something else.

    Raises:
        GraphBuildError: If one depends on data or chance.
    """
    instead = None
    if _current is not None:
        for value in values:
            if torch.is_tensor(value):
                instead = _current.note(value, how)
    return instead


def _watching() -> bool:
    return _current is not None and not _muted and torch._C._is_tracing()


def watch(stack: ExitStack) -> None:
    """Makes the methods that give Python a tensor's value tell of it."""

    def reader(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def read(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if not _watching():
                return original(self, *args, **kwargs)
            with mute():
                read_from = self.shape[0] if name in MEASURERS and self.dim() else self
                instead = tell([read_from, *args], name)
                return original(self, *args, **kwargs) if instead is None else instead

        return read

    for name in (*READERS, *MEASURERS):
        set_attribute(stack, torch.Tensor, name, reader(name, getattr(torch.Tensor, name)))

    for name in ("equal", "allclose", "is_nonzero"):
        set_attribute(stack, torch, name, _function(name, getattr(torch, name)))


def _function(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def function(*args: Any, **kwargs: Any) -> Any:
        if _watching():
            with mute():
                tell(args, name)
        return original(*args, **kwargs)

    return function
