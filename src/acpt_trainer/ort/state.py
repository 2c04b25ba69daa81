"""What a forward pass changes besides its outputs, which a graph would leave as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from acpt_trainer.ort.aliases import version
from acpt_trainer.ort.place import owner
from acpt_trainer.ort.reads import Refused
from acpt_trainer.ort.writes import FIX


@contextlib.contextmanager
def unchanged_tensors(model: nn.Module) -> Iterator[None]:
    """Refuses a forward pass that changes parameters or buffers.

    Most are refused while they are written (`writes`), with the line. What is left is replaced,
    or written where no function of torch's is called.

    Raises:
        GraphBuildError: If one was changed or replaced; names it.
    """
    before = _tensors(model)
    yield
    after = _tensors(model)
    for name, (was, _) in before.items():
        if name not in after or after[name][0] != was:
            raise Refused(
                f"the forward pass of {type(model).__name__} changes its own tensor {name!r}, and "
                "in ONNX Runtime it would stay as it was",
                owner(model, name),
                FIX,
            )


def _tensors(model: nn.Module) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Of each tensor which it is, its memory and how often it was written; and itself."""
    found: dict[str, tuple[tuple[int, ...], Any]] = {}
    for path, module in model.named_modules():
        for name, tensor in {**module._parameters, **module._buffers}.items():
            if tensor is not None:
                # `tensor.data = other` counts no write. The memory is kept, or another took its
                # place.
                memory = None if is_lazy(tensor) else tensor.untyped_storage()
                told = (id(tensor), version(tensor), 0 if memory is None else memory._cdata)
                found[f"{path}.{name}".lstrip(".")] = (told, (tensor, memory))
    return found
