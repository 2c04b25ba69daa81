"""What a function keeps between its calls, to see whether one changed it."""

from __future__ import annotations

import collections
import functools
import itertools
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

_DEPTH, _ITEMS = 4, 64
_CONTAINERS = (list, tuple, dict, set, collections.deque)
_NO_STATE = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, nn.Module)


class Contents:
    """Numbers, texts, tensors and sizes of containers that a function reaches, by name.

    Reached are what it closes over, the globals that it names, its defaults, the arguments of a
    `partial`, and the attributes of its object, and what these hold, to a depth of four. Attributes
    of modules are left out: those of the model are compared for the whole forward pass.

    Args:
        function: A function, method, `partial` or object that is called.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._kept: list[Any] = []  # or an id could become another's
        self._before = self._now()

    def changed(self) -> list[str]:
        """The names of what is other than it was."""
        now = self._now()
        names = {*now, *self._before}
        return sorted(k for k in names if now.get(k) != self._before.get(k))

    def _now(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self._seen: set[int] = set()
        for name, value in _reached(self._function):
            self._note(name, value, found, 0)
        return found

    def _note(self, name: str, value: Any, found: dict[str, Any], depth: int) -> None:
        if value is None or isinstance(value, (bool, int, float, str)):
            found[name] = (type(value), value)
        elif isinstance(value, torch.Tensor):
            self._kept.append(value)
            found[name] = (id(value), value._version)
        elif depth == _DEPTH or id(value) in self._seen:
            return
        elif isinstance(value, _CONTAINERS):
            self._seen.add(id(value))
            found[name] = len(value)
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, item in itertools.islice(items, _ITEMS):
                self._note(f"{name}[{key!r}]", item, found, depth + 1)
        elif hasattr(value, "__dict__") and not isinstance(value, _NO_STATE):
            self._seen.add(id(value))
            for key, item in list(vars(value).items()):
                self._note(f"{name}.{key}", item, found, depth + 1)


def _reached(function: Any) -> Iterator[tuple[str, Any]]:
    while isinstance(function, functools.partial):
        yield from ((f"its argument {i}", value) for i, value in enumerate(function.args))
        yield from function.keywords.items()
        function = function.func
    owner = getattr(function, "__self__", None)
    if owner is not None:
        yield "self", owner
        function = function.__func__ if hasattr(function, "__func__") else function
    elif not isinstance(function, types.FunctionType):
        yield "self", function
        function = type(function).__call__
    function = getattr(function, "__wrapped__", function)
    if not isinstance(function, types.FunctionType):
        return
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        if cell != types.CellType():
            yield name, cell.cell_contents
    yield from ((n, function.__globals__[n]) for n in code.co_names if n in function.__globals__)
    yield from _defaults(function)


def _defaults(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function has for arguments that are not given."""
    yield from ((f"its default {i}", v) for i, v in enumerate(function.__defaults__ or ()))
    yield from (function.__kwdefaults__ or {}).items()
