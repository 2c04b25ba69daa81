"""Draws of NumPy and of Python's `random`, refused while a model is traced.

A tracer sees what torch draws. A number drawn elsewhere would be fixed in the graph, the same at
each step. Generators that the model made itself (`numpy.random.default_rng`) are not seen.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort.mends import set_attribute

_STATE = ("get_state", "set_state", "getstate", "setstate", "seed", "get_bit_generator")


def refuse_foreign_draws(stack: ExitStack) -> None:
    """Makes the drawing functions of both modules raise while a model is traced."""
    import numpy

    for module, state in ((numpy.random, numpy.random.mtrand._rand), (random, random._inst)):  # type: ignore[attr-defined]
        for name, function in list(vars(module).items()):
            if getattr(function, "__self__", None) is state and name not in _STATE:
                set_attribute(stack, module, name, _refusing(f"{module.__name__}.{name}", function))


def _refusing(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def draw(*args: Any, **kwargs: Any) -> Any:
        import torch

        if torch.jit.is_tracing():
            raise GraphBuildError(
                f"the model draws with {name}, and what is drawn would be the same at each step; "
                "draw it with torch, or outside the model and pass it as a tensor"
            )
        return function(*args, **kwargs)

    return draw
