"""What a model holds beside its parameters, which a training graph fixes when it is exported.

A graph has the numbers and settings of the model's Python in it as constants, and runs none of its
assignments. So a change between two steps needs a new graph, and a forward pass that changes
something is refused.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from acpt_trainer.ort import hooks
from acpt_trainer.ort.place import owner
from acpt_trainer.ort.reads import Refused

_PLAIN = (bool, int, float, str, type(None), torch.dtype)
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)
_CONTAINERS = (list, dict, set, collections.deque)
_REGISTRIES = frozenset(vars(nn.Module()))
_OWN = {"training", "forward"}  # the first is a part of the schema by itself, the second is ours


def settings(model: nn.Module) -> tuple[tuple[Any, ...], ...]:
    """For each submodule which object it is, its plain attributes by name, and its hooks."""
    return tuple(
        (id(module), *_plain_attributes(module), *hooks.registered(model, module))
        for module in model.modules()
    )


def _plain_attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, value in vars(module).items():
        kind = type(value)
        if name in _OWN:
            continue
        if kind in _PLAIN:
            yield name, value
        elif kind in (list, tuple, dict):
            if value and not name.startswith("__") and len(value) <= 64 and _all_plain(value):
                yield name, repr(value)
        elif isinstance(value, torch.Tensor):
            yield name, (id(value), value._version)
        elif kind in _FUNCTIONS:
            yield name, id(value)


def _all_plain(value: Any) -> bool:
    items = value.values() if isinstance(value, dict) else value
    return all(type(item) in _PLAIN for item in items)


def changed_settings(model: nn.Module, before: Any, after: Any) -> str:
    """Which settings of which submodules differ, in words."""
    if len(before) != len(after):
        return f"{len(before)} submodules became {len(after)}"
    found = []
    names = [name or type(model).__name__ for name, _ in model.named_modules()]
    for name, (one, *old), (other, *new) in zip(names, before, after, strict=True):
        if one != other:
            found.append(f"{name} is another module")
        old_values, new_values = dict(old), dict(new)
        found += [
            f"{name}.{key} from {old_values.get(key)} to {new_values.get(key)}"
            for key in {**old_values, **new_values}
            if old_values.get(key) != new_values.get(key)
        ]
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")


class Attributes:
    """The tensors and numbers that a model keeps in attributes, before its forward runs."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._kept: list[torch.Tensor] = []
        self.before = self._now()

    def _now(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for module_name, module in self.model.named_modules():
            for name, value in vars(module).items():
                if name not in _REGISTRIES:
                    self._note(f"{module_name}.{name}".lstrip("."), value, found)
        return found

    def _note(self, name: str, value: Any, found: dict[str, Any], depth: int = 0) -> None:
        if type(value) in (int, float):
            found[name] = value
        elif isinstance(value, torch.Tensor):
            # A size is a tensor of its own while it is traced.
            if value.dim() or value.is_floating_point():
                found[name] = (id(value), value._version)
                self._kept.append(value)  # or its id could become another's
        elif isinstance(value, _CONTAINERS) and depth < 3:
            found[name] = len(value)
            items = value.values() if isinstance(value, dict) else value
            for i, item in enumerate(itertools.islice(items, 64)):
                self._note(f"{name}[{i}]", item, found, depth + 1)

    def changed(self) -> list[str]:
        """The names of those that were changed or set since."""
        return [k for k, v in self._now().items() if self.before.get(k) != v]

    def set_anew(self) -> list[str]:
        """The same for a second run: a number where the trace had left a size is none of them."""
        return [k for k in self.changed() if k in self.before or type(self._now()[k]) is tuple]


def refuse_changes(model: nn.Module, names: list[str]) -> None:
    """Raises if a forward pass sets attributes anew each time, which a graph would not."""
    if names:
        raise Refused(
            f"the forward pass changes the attribute {', '.join(names[:4])}, and in ONNX Runtime "
            "it would stay as it was",
            owner(model, names[0].partition("[")[0]),
            "return it, or compute it where it is used (weight_norm: that of "
            "torch.nn.utils.parametrizations); or use strategy='no_acc' or 'ds'",
        )


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Takes no notes for the tracer, if one is at work."""
    tracer = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)
    try:
        yield
    finally:
        torch._C._set_tracing_state(tracer)
