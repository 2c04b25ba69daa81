"""What of a function of torch's the tracer does not follow by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort import reads

# They copy numbers out of the tensors in a list.
_COPIES = (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)
# The tracer follows the bounds of a slice, for which they ask `__index__`.
_INDEXING = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)


class Followed(TorchFunctionMode):  # type: ignore[misc]
    """Looks at each call of a function of torch's while a model is traced."""

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls the function, and tells of what it reads and of gradients that end in it."""
        kwargs = kwargs or {}
        if not torch._C._is_tracing():
            return func(*args, **kwargs)
        if torch.is_grad_enabled():
            return _told(func, args, kwargs)
        flowing = [t for t in _tensors([*args, *kwargs.values()]) if t.requires_grad]
        versions = [t._version for t in flowing]
        result = _told(func, args, kwargs)
        _refuse_writing(func, flowing, versions)
        return _cut(result, flowing)


def _told(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Calls a function, and tells of what it reads."""
    if func in _INDEXING:
        with reads.mute():
            return func(*args, **kwargs)
    if func in _COPIES:
        for data in (*args, *kwargs.values()):
            if isinstance(data, (list, tuple)):
                reads.tell(tree_leaves(data), func.__name__)
    return func(*args, **kwargs)


# --- where gradients end -------------------------------------------------------------------------
#
# `torch.no_grad` leaves no trace in a graph, and a gradient would flow through in silence.


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


def _cut(result: Any, flowing: Sequence[torch.Tensor]) -> Any:
    """A result with a `detach` behind what has numbers and is not an argument itself."""
    if isinstance(result, torch.Size) or not flowing:
        return result
    if isinstance(result, torch.Tensor):
        number = result.is_floating_point() or result.is_complex()
        # A view of what needs a gradient says that it needs one, too, and passes none on.
        if result.grad_fn is not None or not number or any(result is t for t in flowing):
            return result
        return result.detach()
    if type(result) in (tuple, list):
        return type(result)(_cut(item, flowing) for item in result)
    return result


def _refuse_writing(func: Any, flowing: Sequence[torch.Tensor], versions: Sequence[int]) -> None:
    """Refuses a change in place that autograd does not see; the graph would differentiate it.

    Raises:
        GraphBuildError: If one of the tensors, and none of the model's own, was written into.
    """
    for tensor, version in zip(flowing, versions, strict=True):
        if tensor._version != version and not isinstance(tensor, torch.nn.Parameter):
            name = getattr(func, "__name__", str(func))
            raise GraphBuildError(
                f"{name} writes under torch.no_grad into a tensor that a gradient flows through, "
                "and in a graph of ONNX Runtime the gradient would know of it"
            )
