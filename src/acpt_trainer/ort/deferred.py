"""Losses that have no ONNX form and end the forward pass: PyTorch computes them from the graph.

The graph then ends at what the loss is computed from, and PyTorch's own function and gradient go on
from there. That is possible where the model returns the loss as it is, and refused elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort.mends import set_attribute


class Deferred:
    """A call that is made after the graph has run."""

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise self._in_use()

    def _in_use(self, *_: Any) -> GraphBuildError:
        return GraphBuildError(
            f"the model goes on computing with the result of {self.function.__name__}, which has "
            "no ONNX form and is computed in PyTorch after the graph"
        )


def _refuse(self: Deferred, *operands: Any) -> Any:
    raise self._in_use()


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "neg", "bool"):
    setattr(Deferred, f"__{_name}__", _refuse)


def ctc_loss(*args: Any, **kwargs: Any) -> Any:
    """PyTorch's, on the graph's outputs."""
    import torch

    with torch.backends.cudnn.flags(enabled=False):  # as transformers calls it
        return torch.nn.functional.ctc_loss(*args, **kwargs)


def defer_ctc_loss(stack: ExitStack) -> None:
    """Leaves `ctc_loss` for after the graph."""
    import torch

    def deferred(*args: Any, **kwargs: Any) -> Any:
        return Deferred(ctc_loss, args, kwargs)

    set_attribute(stack, torch.nn.functional, "ctc_loss", deferred)
