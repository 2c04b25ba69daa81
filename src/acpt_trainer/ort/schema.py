"""What a call of the model passes, and everything that its graph depends on."""

from __future__ import annotations

import inspect
import os
from typing import Any

import torch
from torch import nn

from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort.call import Nested
from acpt_trainer.ort.cuda import stream_of
from acpt_trainer.ort.explain import explained
from acpt_trainer.ort.fingerprint import Fingerprint
from acpt_trainer.ort.nested import flatten
from acpt_trainer.ort.place import owner
from acpt_trainer.ort.recompute import LEVEL, level_for
from acpt_trainer.ort.settings import changed_settings, settings

# Numbers that differ per step: baked into a graph as constants they would be silently wrong.
STEP_NUMBERS = ("num_items_in_batch",)

_SETTINGS = "attributes of submodules"

Tensors = dict[str, torch.Tensor]
Schema = dict[str, Any]


def split_arguments(
    model: nn.Module, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensors, dict[str, Any]]:
    """Splits a call's arguments into tensors and the rest.

    Args:
        model: The model that is called.
        signature: That of its forward.
        args: The call's positional arguments.
        kwargs: The call's named arguments.

    Returns:
        The tensors, which are inputs of the graph, and the rest, which is fixed in it.

    Raises:
        GraphBuildError: If an argument has no name, or a type that no graph takes.
    """
    bound = signature.bind(*args, **kwargs)
    flat: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            flat.update(value)
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            raise GraphBuildError(
                f"{type(model).__name__}.forward takes *{name}; name its arguments"
            )
        else:
            flat[name] = value
    if _has_cache(model, signature):
        flat["use_cache"] = False  # a key-value cache has no use in training and no ONNX form
    for name in STEP_NUMBERS:
        if isinstance(flat.get(name), (int, float)):
            flat[name] = torch.tensor(flat[name])
    tensors: Tensors = {}
    fixed: dict[str, Any] = {}
    for name, value in flat.items():
        if torch.is_tensor(value):
            tensors[name] = value
        elif _is_plain(value):
            fixed[name] = value
        else:
            fixed[name] = _nested(type(model).__name__, name, value, tensors)
    return tensors, fixed


def _nested(model: str, name: str, value: Any, tensors: Tensors) -> Nested:
    """Takes an argument apart that holds tensors, and adds these to `tensors`."""
    inside: list[torch.Tensor] = []
    try:
        structure = flatten(value, inside, what=f"the argument {name!r} holds")
    except GraphBuildError as error:
        raise explained(error, model) from None
    names = tuple(f"{name}[{i}]" for i in range(len(inside)))
    tensors.update(zip(names, inside, strict=True))
    return Nested(structure, names)


class ModelSchema:
    """What a graph depends on that the model itself holds, described anew when something changed.

    Args:
        model: The model.
        recompute: The strategy's option, see `recompute`.
    """

    def __init__(self, model: nn.Module, recompute: int | None = None) -> None:
        self.model = model
        self.recompute = recompute
        self._seen: Fingerprint | None = None
        self._level: str | None = None
        self._schema: Schema = {}

    def now(self) -> Schema:
        """By what to call it in a message.

        Raises:
            GraphBuildError: If a parameter has no shape yet.
        """
        level = os.environ.get(LEVEL)
        if self._seen is None or level != self._level or not self._seen.same():
            model = self.model
            _refuse_lazy(model)
            self._level = level
            self._seen = Fingerprint(model)
            self._schema = {
                "parameters": tuple(
                    (p.requires_grad, p.dtype, p.shape) for p in model.parameters()
                ),
                "training mode of submodules": tuple(m.training for m in model.modules()),
                _SETTINGS: settings(model),
                "recompute": level_for(model, self.recompute),
            }
        return self._schema


def _refuse_lazy(model: nn.Module) -> None:
    lazy = next((n for n, p in model.named_parameters() if nn.parameter.is_lazy(p)), None)
    if lazy is not None:
        what = f"{lazy} is made by the first forward pass, and a graph needs its shape"
        fix = "call the model once in evaluation mode, before its optimizer is made"
        raise explained(GraphBuildError(what, fix), model, owner(model, lazy))


def schema_of(held: ModelSchema, tensors: Tensors, fixed: dict[str, Any]) -> Schema:
    """Everything that a graph depends on, by what to call it in a message."""
    device = next(held.model.parameters()).device
    autocast = torch.is_autocast_enabled(device.type)
    return {
        "tensor arguments": tuple(
            (n, v.dtype, v.dim(), v.requires_grad, v.device) for n, v in tensors.items()
        ),
        "other arguments": repr(sorted(fixed.items())),
        "autocast": torch.get_autocast_dtype(device.type) if autocast else None,
        "stream": stream_of(device),
        **held.now(),
    }


def differences(model: nn.Module, before: Schema, after: Schema) -> dict[str, str]:
    """What differs between two schemas, and how."""
    found: dict[str, str] = {}
    for name, value in after.items():
        if value == before[name]:
            continue
        if name == _SETTINGS:
            how = changed_settings(model, before[name], value)
            found[f"{name} ({how})"] = how
        else:
            found[name] = f"{name}: from {before[name]} to {value}"
    return found


def _has_cache(model: nn.Module, signature: inspect.Signature) -> bool:
    """Whether a call may ask for a key-value cache: of the model, or of the one PEFT wraps."""
    if "use_cache" in signature.parameters:
        return True
    passed_on = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature.parameters.values())
    wrapped = getattr(model, "get_base_model", None)
    if not passed_on or wrapped is None:
        return False
    return "use_cache" in inspect.signature(wrapped().forward).parameters


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(v) for v in value)
    if isinstance(value, dict):
        return all(_is_plain(v) for v in value.values())
    return value is None or isinstance(value, (bool, int, float, str, torch.dtype))
