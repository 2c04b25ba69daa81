"""What PyTorch promises of a backward pass, kept where ONNX Runtime runs it.

The graph's outputs, inputs and weights are the very memory that its backward half computes with.
ORTModule hands the outputs out as they are, notices few changes of that memory, gives a zero to
what no gradient reaches, and keeps a forward pass for one backward pass only.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size

from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort import loss_gradients, threads, torch_calls
from acpt_trainer.ort.call import Call
from acpt_trainer.ort.explain import explained
from acpt_trainer.ort.graph import forward_nodes
from acpt_trainer.ort.mends import set_attribute
from acpt_trainer.ort.place import Place

_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
"""Operators whose output may be the memory of their first input."""

_OF_SHAPES = frozenset({"Shape", "Size"})
"""Operators that do not look at their input's numbers."""

PREFIX = "_original_module."
"""What ORTModule puts before the names of a call's parameters."""


@dataclass(frozen=True)
class Shared:
    """Memory that PyTorch sees and the backward half of a graph computes with.

    Attributes:
        outputs: Indices of the graph's outputs; the backward half may write into them.
        inputs: Names of inputs and weights; the backward half reads them.
    """

    outputs: frozenset[int]
    inputs: frozenset[str]


def shared(graph: Any) -> Shared:
    """What of a training graph is shared with PyTorch.

    Args:
        graph: The `onnx.ModelProto` that runs.
    """
    used, memory = _read_again(graph)
    yields = (node for node in graph.graph.node if node.op_type == "YieldOp")
    return Shared(
        frozenset(i for y in yields for i, name in enumerate(y.input) if memory(name) in used),
        frozenset(given.name for given in graph.graph.input if given.name in used),
    )


def kept(graph: Any) -> list[str]:
    """Names of the tensors that the forward half of a graph computes and keeps for the other.

    Inputs, weights and constants are not among them. A view counts as what it is a view of.

    Args:
        graph: The `onnx.ModelProto` that runs.
    """
    ahead, (used, _) = forward_nodes(graph), _read_again(graph)
    nodes = (n for i, n in enumerate(graph.graph.node) if i in ahead)
    return [name for node in nodes for name in node.output if name and name in used]


def _read_again(graph: Any) -> tuple[set[str], Callable[[str], str]]:
    """The memory that the backward half reads, and which memory a tensor of the other half is."""
    ahead = forward_nodes(graph)
    same: dict[str, str] = {}

    def memory(name: str) -> str:
        while name in same:
            name = same[name]
        return name

    used: set[str] = set()
    for index, node in enumerate(graph.graph.node):
        if index in ahead:
            if node.op_type in _VIEWS:
                same[node.output[0]] = memory(node.input[0])
        elif node.op_type not in _OF_SHAPES and node.op_type != "YieldOp":
            used.update(map(memory, node.input))
    return used, memory


def keep_promises(stack: ExitStack) -> None:
    """Puts `_promising` around ORTModule's autograd function."""
    manager = importlib.import_module(
        "onnxruntime.training.ortmodule._training_manager"
    ).TrainingManager
    create = manager._create_autofunction_class

    @functools.wraps(create)
    def create_autofunction_class(self: Any) -> Any:
        plain = create(self)
        return _promising(self, plain) if isinstance(self._original_module, Call) else plain

    set_attribute(stack, manager, "_create_autofunction_class", create_autofunction_class)


def _promising(manager: Any, plain: Any) -> Any:
    """ORTModule's autograd function, with what PyTorch promises of one."""
    call = manager._original_module

    @functools.cache
    def names() -> tuple[str, ...]:
        info = manager._graph_transition_manager._post_export_processed_model_info
        return tuple(info.onnx_graph_input_names)

    @functools.cache
    def of_graph() -> Shared:
        return shared(manager._onnx_models.optimized_model)

    @functools.cache
    def without_shape() -> frozenset[int]:
        return loss_gradients.without_shape(manager._onnx_models.optimized_model.graph)

    class _ORTModuleFunction(plain):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            threads.end_pytorchs()
            outputs = plain.forward(ctx, *inputs)
            ctx.save_for_backward()  # not the outputs: autograd's hooks would see them
            used, named = of_graph().inputs, zip(names(), inputs, strict=True)
            ctx.read = [(name, t, _version(t)) for name, t in named if name in used]
            copied = of_graph().outputs
            given = tuple(t.clone() if i in copied else t for i, t in enumerate(outputs))
            without = manager._graph_info.output_grad_indices_non_differentiable
            ctx.mark_non_differentiable(*(given[i] for i in without))
            return given

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
            try:
                _refuse_what_is_not_kept(ctx, call)
                # ORTModule makes zeros as large as the outputs: it knows nothing of our passes.
                given = list(gradients)
                for i in without_shape():
                    if given[i] is None:
                        _, device, dtype = ctx.run_info.output_info[i]
                        given[i] = torch.zeros((), device=device, dtype=dtype)
                threads.end_pytorchs()
                found = plain.backward(ctx, *given)
                torch_calls.raise_failure()
            except Exception as error:
                if should_reduce_batch_size(error):
                    raise
                ours = isinstance(error, GraphBuildError)
                where = Place("the backward pass") if ours else None
                raise explained(error, call.model, where) from error
            finally:
                ctx.read = []
            # No gradient is not a zero, which an optimizer with weight decay would act on.
            reached = call.record.reached_from(i for i, g in enumerate(gradients) if g is not None)
            return tuple(
                gradient if name.removeprefix(PREFIX) in reached else None
                for name, gradient in zip(names(), found, strict=True)
            )

    return _ORTModuleFunction


def _version(tensor: torch.Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _refuse_what_is_not_kept(ctx: Any, call: Any) -> None:
    if torch.is_grad_enabled():
        raise GraphBuildError(
            "a gradient of gradients is asked for (create_graph=True), and ONNX Runtime's "
            "backward pass has none"
        )
    if not hasattr(ctx.run_info, "state"):
        raise GraphBuildError(
            "a second backward pass goes through the same forward pass (retain_graph=True), and "
            "ONNX Runtime keeps that for one",
            "add the losses and call backward once, or call the model once for each",
        )
    changed = [name for name, tensor, version in ctx.read if _version(tensor) != version]
    if changed:
        inputs = {f"tensors_{i}": name for i, name in enumerate(call.names)}
        named = [inputs.get(name, name.removeprefix(f"{PREFIX}model.")) for name in changed]
        raise GraphBuildError(
            f"{', '.join(named[:4])} changed in place between the forward pass and its backward "
            "pass, which reads it: the gradient would be of another model",
            "call backward before the optimizer's step and before tensors are written into",
        )
