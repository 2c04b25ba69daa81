"""A table of expressions by the symbolic that each needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from models.expressions import numbers, same_as_pytorch


class Entries(dict[str, Callable[[], None]]):
    """What fails without a symbolic, by the operator's name without its domain."""

    def needs(
        self, name: str, shape: Sequence[int] = (4, 6), inputs: Sequence[torch.Tensor] | None = None
    ) -> Callable[..., Any]:
        """Enters an expression of a weight of this shape that needs the symbolic of this name."""

        def enter(expression: Callable[..., Any]) -> Callable[..., Any]:
            given = [numbers(2, 4)] if inputs is None else inputs
            assert name not in self, name
            self[name] = lambda: same_as_pytorch(expression, shape, *given)
            return expression

        return enter
