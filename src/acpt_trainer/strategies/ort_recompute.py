"""What `ort` refuses of gradient checkpointing: ONNX Runtime's recompute has fewer choices."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Any

from acpt_trainer.errors import Problem

if TYPE_CHECKING:
    from torch import nn

_LEVEL = "ORTMODULE_MEMORY_OPT_LEVEL"
_PLAN = "ORTMODULE_MEMORY_OPT_CONFIG"
# These say how PyTorch is to repeat a layer, which ONNX Runtime does its own way.
_HOW = {"use_reentrant", "preserve_rng_state"}
_PLAIN = {"every_n_layers": 1, "offload": False}


def option_problems(recompute: Any) -> list[Problem]:
    """An unusable `recompute`, said by option or environment."""
    found = []
    if recompute is not None and recompute not in (0, 1, 2):
        found.append(
            Problem(f"recompute is {recompute!r}", "options of 'ort'", "give None, 0, 1 or 2")
        )
    level = os.environ.get(_LEVEL)
    if level not in (None, "0", "1", "2"):
        found.append(
            Problem(f"there is no recompute level {level!r}", f"{_LEVEL}={level}", "give 0, 1 or 2")
        )
    if _PLAN in os.environ:
        found.append(
            Problem(
                "a recompute plan of your own is not supported",
                f"{_PLAN}={os.environ[_PLAN]}",
                f"unset {_PLAN} and use get_strategy('ort').build(recompute=1)",
            )
        )
    return found


def argument_problems(args: Any, recompute: int | None) -> list[Problem]:
    """Training arguments that ask for another checkpointing than ONNX Runtime does."""
    where = "TrainingArguments(activation_checkpointing=True)"
    if not (
        getattr(args, "activation_checkpointing", False)
        or getattr(args, "gradient_checkpointing", False)
    ):
        return []
    found = []
    if recompute == 0:
        found.append(_contradiction(where))
    kwargs = getattr(args, "activation_checkpointing_kwargs", None) or {}
    for name, value in kwargs.items():
        if name not in _HOW and value != _PLAIN.get(name):
            found.append(
                _unknown(f"{name}={value!r}", f"activation_checkpointing_kwargs[{name!r}]")
            )
    return found


def model_problems(model: nn.Module, recompute: int | None) -> list[Problem]:
    """A model whose checkpointing is switched on otherwise than ONNX Runtime does it."""
    from torch.utils.checkpoint import checkpoint

    flags = [m for m in model.modules() if hasattr(m, "gradient_checkpointing")]
    on = [m for m in flags if m.gradient_checkpointing]
    if not on:
        return []
    where = f"{type(model).__name__}.activation_checkpointing_enable(...)"
    if recompute == 0:
        return [_contradiction(where)]
    found = []
    kinds = {type(m) for m in on}
    if any(type(m) in kinds and not m.gradient_checkpointing for m in flags):
        found.append(_unknown("checkpointing of some of the layers", where))
    for module in on:
        function = getattr(module, "_gradient_checkpointing_func", checkpoint)
        plain = function.func if isinstance(function, functools.partial) else function
        if plain is not checkpoint:
            found.append(_unknown("a checkpointing function of its own, such as offload", where))
            break
    return found


def _contradiction(where: str) -> Problem:
    return Problem(
        "gradient checkpointing is asked for, and the strategy has recompute=0",
        where,
        "leave recompute out, or switch gradient checkpointing off",
    )


def _unknown(what: str, where: str) -> Problem:
    return Problem(
        f"ONNX Runtime's recompute knows no {what}",
        where,
        "leave it out: ONNX Runtime plans every layer; or use strategy='no_acc' or 'ds'",
    )
