"""What of a function of torch's the tracer does not follow by itself."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch.autograd.function import FunctionCtx
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort import reads
from acpt_trainer.ort.aliases import Aliases, refuse_lost_write, tensors_in, version
from acpt_trainer.ort.writes import Writes

# They copy numbers out of the tensors in a list.
_COPIES = (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor)
# The trace has what they return as a constant, in the memory of the tensor itself: what is written
# into that later would be in it twice.
_CONSTANTS = (*_COPIES, torch.from_numpy, torch.frombuffer)
# The tracer follows the bounds of a slice, for which they ask `__index__`.
_INDEXING = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)

# Of a tensor whose numbers the trace has lost, it still has these.
_SIZES = (torch.Tensor.size, torch.Tensor.numel, torch.Tensor.shape.__get__)


class Followed(TorchFunctionMode):  # type: ignore[misc]
    """Looks at each call of a function of torch's while a model is traced.

    Args:
        writes: Is told of what is written into.
    """

    def __init__(self, writes: Writes) -> None:
        super().__init__()
        self.aliases = Aliases()
        self.writes = writes

    def returned(self, outputs: Sequence[torch.Tensor]) -> None:
        """Looks at what the model returns.

        Raises:
            GraphBuildError: If the trace has not what was written into one of them.
        """
        if self.aliases.lost(None, (), outputs):
            refuse_lost_write("the output")

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Calls the function, and tells of what it reads and of gradients that end in it."""
        kwargs = kwargs or {}
        tensors = tensors_in([*args, *kwargs.values()])
        versions = [version(t) for t in tensors]
        if not torch._C._is_tracing():
            result = func(*args, **kwargs)
            self.writes.called(func, tensors, versions, result)
            return result
        lost = self.aliases.lost(func, args, tensors)
        result = _told(func, args, kwargs)
        self.writes.called(func, tensors, versions, result)
        if lost and func not in _SIZES and (tensors_in(result) or _written(tensors, versions)):
            refuse_lost_write(getattr(func, "__name__", str(func)))
        if not torch.is_grad_enabled():
            _refuse_writing(func, tensors, versions)
            result = _cut(result, [t for t in tensors if t.requires_grad])
        self.aliases.called(tensors, versions, result)
        return result


def _told(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Calls a function, and tells of what it reads."""
    if func in _INDEXING:
        with reads.mute():
            return func(*args, **kwargs)
    if func in _COPIES:
        for data in (*args, *kwargs.values()):
            if isinstance(data, (list, tuple)):
                reads.tell(tree_leaves(data), func.__name__)
    result = func(*args, **kwargs)
    if func in _CONSTANTS and not any(result is value for value in args):
        return result.clone()
    return result


# --- where gradients end -------------------------------------------------------------------------
#
# `torch.no_grad` leaves no trace in a graph, and a gradient would flow through in silence.


def _written(tensors: Sequence[torch.Tensor], versions: Sequence[int]) -> bool:
    return versions != [version(t) for t in tensors]


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


def _refuse_writing(func: Any, tensors: Sequence[torch.Tensor], versions: Sequence[int]) -> None:
    """Refuses a change in place that autograd does not see; the graph would differentiate it.

    Raises:
        GraphBuildError: If one of the tensors, and none of the model's own, was written into.
    """
    for tensor, before in zip(tensors, versions, strict=True):
        flows = tensor.requires_grad and not isinstance(tensor, torch.nn.Parameter)
        if flows and version(tensor) != before and not _in_custom_function():
            name = getattr(func, "__name__", str(func))
            raise GraphBuildError(
                f"{name} writes under torch.no_grad into a tensor that a gradient flows through, "
                "and in a graph of ONNX Runtime the gradient would know of it"
            )


def _in_custom_function() -> bool:
    """Whether a forward of a custom autograd function runs, which tells autograd what it writes."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        first = frame.f_code.co_varnames[: min(1, frame.f_code.co_argcount)]
        if first and isinstance(frame.f_locals.get(first[0]), FunctionCtx):
            return True
        frame = frame.f_back
    return False
