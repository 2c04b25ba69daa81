"""Whether anything that a model holds was replaced since a look at it: one quick look a step.

A schema describes in words what every submodule holds, which takes milliseconds. As long as each
attribute is the very object that it was, the description is, too.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as everywhere

FEW = 64
"""Containers of more items are no settings: of them only the number is looked at."""


class Fingerprint:
    """A look at a model, and whether the next finds the same.

    Noticed are: a submodule, parameter, buffer or hook that is added, taken off or replaced, the
    training flag of any part, an attribute that is set, an item of a list or dict in one, a write
    into a tensor in one, and what parameters are (trained, type, shape).

    Args:
        model: The model. What it holds now is kept alive, or its ids could become another's.
    """

    def __init__(self, model: nn.Module) -> None:
        self._views: list[Iterable[Any]] = [
            everywhere._global_forward_pre_hooks.values(),
            everywhere._global_forward_hooks.values(),
        ]
        self._large: list[Any] = []
        self._tensors: list[torch.Tensor] = []
        for module in model.modules():
            own = vars(module)
            self._views += (own.keys(), own.values())  # both follow what becomes of the module
            for value in own.values():
                self._look_into(value)
        self._parameters = list(model.parameters())
        self._held = list(self._values())
        self._state = self._state_now()

    def same(self) -> bool:
        """Whether the model holds what it held."""
        now = list(self._values())
        return (
            len(now) == len(self._held)
            and all(map(operator.is_, now, self._held))
            and self._state_now() == self._state
        )

    def _look_into(self, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            self._tensors.append(value)
        elif not isinstance(value, (list, dict)):
            return
        elif len(value) > FEW:
            self._large.append(value)
        elif isinstance(value, dict):
            self._views += (value.keys(), value.values())
        else:
            self._views.append(value)

    def _values(self) -> Iterator[Any]:
        return itertools.chain.from_iterable(self._views)

    def _state_now(self) -> tuple[Any, ...]:
        return (
            [(p.requires_grad, p.dtype, p.shape) for p in self._parameters],
            [t._version for t in self._tensors],
            [len(c) for c in self._large],
        )
