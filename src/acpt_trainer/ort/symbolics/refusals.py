"""Operators that are refused by name, since ONNX Runtime dies of them or cannot train them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from acpt_trainer.ort.symbolics import recurrence, values

CRASHING = {
    "rnn_relu": recurrence.RELU,
    "_pack_padded_sequence": recurrence.PACKED,
    "scatter_reduce": "ONNX Runtime crashes when it builds its gradient",
}
"""Operators, and why they are refused."""


def refused(name: str, why: str) -> Callable[..., Any]:
    """A symbolic that refuses an operator."""

    def symbolic(g: Any, *args: Any, **kwargs: Any) -> Any:
        return values.helper()._unimplemented(name, why)

    return symbolic
