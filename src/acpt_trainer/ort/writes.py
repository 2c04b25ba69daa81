"""Writes of a forward pass into what outlives it, which a graph would make once or never."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from acpt_trainer.ort import place
from acpt_trainer.ort.aliases import tensors_in, version
from acpt_trainer.ort.reads import Refused

FIX = (
    "compute a new tensor instead, or write between the steps, in a callback; or train this model "
    "with strategy='no_acc' (PyTorch) or 'ds' (DeepSpeed ZeRO-1)"
)


class Writes:
    """Looks at what functions of torch's write into while a model is traced.

    Args:
        model: The model.
        given: Its tensor arguments.

    Attributes:
        arguments: Names of those that were written into. The caller's tensors stay as they were.
    """

    def __init__(self, model: nn.Module, given: Mapping[str, torch.Tensor]) -> None:
        self.model = model
        self.arguments: set[str] = set()
        self._given = _memories(given.items())
        self._own = _memories([*model.named_parameters(), *model.named_buffers()])
        self._made: set[int] = set()

    def called(
        self, func: Any, tensors: Sequence[torch.Tensor], versions: Sequence[int], result: Any
    ) -> None:
        """Looks at one call.

        Args:
            func: The function.
            tensors: Its arguments.
            versions: Theirs before it was called.
            result: What it returned.

        Raises:
            GraphBuildError: If it wrote into what a graph does not write into.
        """
        if func == torch.Tensor.data.__set__:
            self._refuse("puts other numbers into a tensor (data = ...)")
        results = [_memory(t) for t in tensors_in(result)]
        for tensor, before in zip(tensors, versions, strict=True):
            if version(tensor) != before:
                self._written(func, tensor, results)

    def _written(self, func: Any, tensor: torch.Tensor, results: Sequence[int | None]) -> None:
        name, memory = getattr(func, "__name__", str(func)), _memory(tensor)
        if memory in self._own:
            self._refuse(f"changes its own tensor {self._own[memory]!r} ({name})")
        elif memory in self._given:
            self.arguments.add(self._given[memory])
        elif getattr(func, "__module__", "") == "torch.nn.functional" and memory not in results:
            # Such as `embedding` with a largest norm: the write is inside and not in the trace.
            self._refuse(f"has {name} write into an argument, beside what it returns")
        elif _is_constant_written(tensor):
            self._refuse(f"changes a tensor that is fixed in its graph ({name})")

    def _refuse(self, does: str) -> None:
        kind, where = type(self.model).__name__, place.here(self.model)
        raise Refused(
            f"the forward pass of {kind} {does}, and in ONNX Runtime it would stay as it was",
            where,
            FIX,
        )


def _memories(named: Iterable[tuple[str, torch.Tensor]]) -> dict[int, str]:
    return {memory: name for name, t in named if (memory := _memory(t)) is not None}


def _memory(tensor: torch.Tensor) -> int | None:
    if tensor.layout is not torch.strided or nn.parameter.is_lazy(tensor):
        return None
    return int(tensor.untyped_storage()._cdata)


def _is_constant_written(tensor: torch.Tensor) -> bool:
    """Whether a value of the traced graph is a constant that was written into."""
    if not torch._C._is_tracing():
        return False
    node = torch._C._get_value_trace(tensor).node()
    # It is the write of a function, or still what a part of it was written into.
    before = [node, *(value.node() for value in node.inputs())][:2]
    return any(n.kind() == "prim::Constant" for n in before)
