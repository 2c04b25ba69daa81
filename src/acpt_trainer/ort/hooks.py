"""Forward hooks of submodules: what they change is in a graph, what they note is not."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as _everywhere
from torch.utils._pytree import tree_flatten

from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort.contents import Contents
from acpt_trainer.ort.place import Place

Hook = Callable[..., Any]
Hooks = MutableMapping[int, Hook]

# Theirs note what the model itself returns, or set what its forward uses: both are in the graph.
_TRUSTED = ("transformers", "accelerate", "peft", "torch")


def registered(model: nn.Module, module: nn.Module) -> Iterator[tuple[str, str]]:
    """The hooks that run inside a graph of the model, as a part of the schema.

    Those of the model itself run around the graph, at each step. A hook has a number of its own
    in the process, so that one in another's place is seen.
    """
    inside = module is not model
    before, after = (
        (module._forward_pre_hooks, module._forward_hooks)
        if inside
        else (_everywhere._global_forward_pre_hooks, _everywhere._global_forward_hooks)
    )
    for kind, hooks in (("forward pre-hooks", before), ("forward hooks", after)):
        if hooks:
            names = ", ".join(f"{_origin(hook)} (number {n})" for n, hook in hooks.items())
            yield kind if inside else f"{kind} of all modules", names


@contextlib.contextmanager
def watched(model: nn.Module) -> Iterator[None]:
    """Refuses hooks inside the model that note something: after the trace they run no more.

    Raises:
        GraphBuildError: If one runs that leaves all as it was given, or that changes what it keeps
            beside it; names it and its module.
    """
    names = {id(m): f"{name} ({type(m).__name__})" for name, m in model.named_modules()}
    tables: list[tuple[Hooks, bool]] = [
        (_everywhere._global_forward_pre_hooks, True),
        (_everywhere._global_forward_hooks, False),
    ]
    for module in list(model.modules())[1:]:
        tables += [(module._forward_pre_hooks, True), (module._forward_hooks, False)]
    undo: list[tuple[Hooks, int, Hook, Hook]] = []
    for hooks, before in tables:
        for number, hook in hooks.items():
            if _origin(hook).partition(".")[0] not in _TRUSTED:
                undo.append((hooks, number, hook, _watching(hook, names, before)))
    for hooks, number, _, watching in undo:
        hooks[number] = watching
    try:
        yield
    finally:
        for hooks, number, hook, watching in undo:
            if hooks.get(number) is watching:  # it may have taken itself off
                hooks[number] = hook


def _watching(hook: Hook, names: dict[int, str], before: bool) -> Hook:
    def watching(module: nn.Module, *given: Any) -> Any:
        state, kept = _state(given), Contents(hook)
        result = hook(module, *given)
        if id(module) in names:
            if state == _state(given) and _as_given(result, given, before):
                raise _refusal(hook, names[id(module)], "changes nothing and returns nothing new")
            changed = kept.changed()
            if changed:
                what = f"changes {', '.join(changed[:3])} beside what it returns"
                raise _refusal(hook, names[id(module)], what)
        return result

    return watching


def _state(given: Any) -> Any:
    """What it is and what it holds: a write in place is a change, and so is another flag."""
    values, structure = tree_flatten(given)
    return structure, [
        (id(v), v._version, v.requires_grad) if isinstance(v, torch.Tensor) else id(v)
        for v in values
    ]


def _as_given(result: Any, given: tuple[Any, ...], before: bool) -> bool:
    """Whether a hook returned nothing new; `before` for one that runs before the module."""
    if result is None:
        return True
    if not before:
        return bool(_state(result) == _state(given[-1]))
    if len(given) == 1:  # else positional and named arguments
        (given,) = given
        result = result if isinstance(result, tuple) else (result,)
    return bool(_state(result) == _state(given))


def _refusal(hook: Hook, module: str, what: str) -> GraphBuildError:
    code = getattr(_function(hook), "__code__", None)
    source = f"{code.co_filename}:{code.co_firstlineno} in {code.co_name}" if code else None
    error = GraphBuildError(
        f"the forward hook {_origin(hook)} {what}, and inside a graph of ONNX Runtime it would run "
        "while the model is exported and then never again",
        fix="take it off, have the model return what it records, hook the model itself, whose "
        "hooks run at each step, or train with strategy='no_acc'",
    )
    error.where = Place(module, source)  # type: ignore[attr-defined]
    return error


def _function(hook: Any) -> Any:
    while isinstance(hook, functools.partial):
        hook = hook.func
    return hook


def _origin(hook: Hook) -> str:
    """Its module and qualified name, or those of its class."""
    function = _function(hook)
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"
