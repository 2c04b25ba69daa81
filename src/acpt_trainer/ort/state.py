"""What a forward pass changes besides its outputs, which a graph would leave as it is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from acpt_trainer.errors import GraphBuildError


@contextlib.contextmanager
def unchanged_tensors(model: nn.Module) -> Iterator[None]:
    """Refuses a forward pass that changes parameters or buffers.

    Statistics of normalization layers are looked at before training, not here.

    Raises:
        GraphBuildError: If one was changed or replaced; names it.
    """
    before = _tensors(model)
    yield
    after = _tensors(model)
    for name, was in before.items():
        if after.get(name) != was:
            raise GraphBuildError(
                f"the forward pass of {type(model).__name__} changes its own tensor {name!r}, and "
                "in ONNX Runtime it would stay as it was"
            )


def _tensors(model: nn.Module) -> dict[str, tuple[int, int]]:
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, _NormBase):
            continue
        owned = {**module._parameters, **module._buffers}
        for name, tensor in owned.items():
            if tensor is not None:
                found[f"{path}.{name}".lstrip(".")] = (id(tensor), tensor._version)
    return found
