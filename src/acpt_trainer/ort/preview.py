"""A call of the model traced with tensors that have no data: its graph in a second, to know it by.

PyTorch's tracer runs the model to see what it does, which for a large model takes as long as a
step. Here parameters, buffers and inputs are fake tensors: they have a shape and a type and cost
nothing to compute with. What the model computes from shapes alone stays real. The graph says all
that the exporter will be told, down to each constant, so its digest is a key that a stored export
can be found by. Where Python looks at data the trace fails, and there is no key.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from acpt_trainer.ort.call import Call
from acpt_trainer.ort.schema import Tensors

# Nodes whose doing is not in the graph: Python functions and compiled ones.
_OPAQUE = frozenset({"prim::PythonOp", "prim::CallFunction", "prim::CallMethod"})


class NotTold(Exception):
    """A call's trace does not tell all that its export depends on; the message says why."""


@dataclass(frozen=True)
class Preview:
    """What a call will compute.

    Attributes:
        digest: Of the graph with its constants, and of all that the exporter reads beside it.
        structure: Of what the model returns; see `flatten`.
        outputs: Rank and type of each tensor that it returns.
    """

    digest: str
    structure: Any
    outputs: tuple[tuple[int, torch.dtype], ...]


def preview(call: Call, tensors: Tensors) -> Preview:
    """Traces a call without data.

    Args:
        call: The call that is to be exported. It is copied, not run.
        tensors: Its inputs.

    Returns:
        What it will compute.

    Raises:
        NotTold: If that is not to be told without data.
    """
    try:
        with _undisturbed():
            graph, outputs, structure = _in_a_thread(_trace, call, tensors)
            text = hashlib.sha256()
            for line in (*_beside(call, tensors), *_lines(graph)):
                text.update(line.encode() + b"\n")
    except NotTold:
        raise
    except Exception as error:
        # Whatever a model may do. What is wrong with it, if anything is, the export says.
        first = (str(error).strip().splitlines() or [""])[0]
        raise NotTold(f"its trace without data fails: {type(error).__name__}: {first}") from error
    return Preview(
        text.hexdigest(), structure, tuple((o.dim(), o.dtype) for o in outputs)
    )  # fmt: skip


def _in_a_thread(trace: Callable[..., Any], call: Call, tensors: Tensors) -> Any:
    """Traces in a thread of its own, under the autocast of this one.

    Without data a convolution leaves its sizes behind in the tracer, which keeps them by thread:
    the next trace would stumble over them, or crash.
    """
    device = next(call.model.parameters()).device.type
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    def traced() -> Any:
        with torch.autocast(device, dtype, enabled):
            return trace(call, tensors)

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(traced).result()


def _trace(call: Call, tensors: Tensors) -> tuple[Any, list[torch.Tensor], Any]:
    from torch._subclasses.fake_tensor import FakeTensorMode

    # Tensors that the model makes while it runs are real, or what it computes from shapes would
    # have no value either.
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    memo: dict[int, Any] = {
        id(t): mode.from_tensor(t) for t in (*call.model.parameters(), *call.model.buffers())
    }
    twin = copy.deepcopy(call, memo)
    inputs = tuple(mode.from_tensor(t) for t in tensors.values())
    with torch.no_grad():
        graph, outputs, _ = torch.jit._get_trace_graph(
            twin, inputs, strict=False, _force_outplace=False, _return_inputs_states=True
        )
    torch._C._jit_pass_inline(graph)
    return graph, list(outputs), twin.record.structure


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Looks like an export to the model, and leaves the random states as they were."""
    from onnxruntime.training.ortmodule import _utils
    from torch.onnx._internal.torchscript_exporter._globals import GLOBALS

    states = _utils.get_random_states()
    before = GLOBALS.in_onnx_export
    GLOBALS.in_onnx_export = True
    # Where a convolution has no fake form torch logs pages before it raises, which is handled.
    log = logging.getLogger("torch._subclasses.fake_tensor")
    was_disabled, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = was_disabled
        GLOBALS.in_onnx_export = before
        _utils.set_random_states(states)


# --- the graph as text ---------------------------------------------------------------------------


def _lines(block: Any) -> Iterator[str]:
    """The graph, one line a node, without shapes: they are dynamic."""
    yield f"in {[_value(v) for v in block.inputs()]}"
    for node in block.nodes():
        kind = node.kind()
        if kind in _OPAQUE:
            raise NotTold(f"it calls what the graph does not show ({kind})")
        attributes = [f"{name}={_attribute(node, name)}" for name in node.attributeNames()]
        inputs = [v.debugName() for v in node.inputs()]
        yield f"{[_value(v) for v in node.outputs()]} {kind} {attributes} {inputs}"
        for inner in node.blocks():
            yield from _lines(inner)
    yield f"out {[v.debugName() for v in block.outputs()]}"


def _value(value: Any) -> str:
    kind = value.type()
    if kind.kind() != "TensorType":
        return f"{value.debugName()}:{kind}"
    return f"{value.debugName()}:{kind.dtype()}:{kind.dim()}:{kind.device()}"


def _attribute(node: Any, name: str) -> str:
    kind = node.kindOf(name)
    if kind == "t":
        return _contents(node.t(name))
    if kind == "ts":
        return str([_contents(t) for t in node.ts(name)])
    if kind in ("i", "is", "f", "fs", "s", "ss", "c", "ty"):
        return repr(getattr(node, kind)(name))
    raise NotTold(f"a constant of its graph is of a kind without text ({node.kind()}, {kind})")


def _contents(tensor: torch.Tensor) -> str:
    from torch._subclasses.fake_tensor import FakeTensor

    if isinstance(tensor, FakeTensor):
        raise NotTold("a constant of its graph is computed from data")
    plain = tensor.detach().cpu().contiguous()
    data = plain.reshape(-1).view(torch.uint8).numpy().tobytes()
    return f"{tensor.dtype}{tuple(tensor.shape)}{hashlib.sha256(data).hexdigest()}"


# --- what an export reads beside the graph -------------------------------------------------------


def _beside(call: Call, tensors: Tensors) -> Iterator[str]:
    """Inputs, parameters, buffers and classes: names, types, shapes, and which are the same."""
    for name, tensor in tensors.items():
        # A dimension of 1 may be broadcast, and one of 0 is empty: both may be exported otherwise.
        sizes = [min(size, 2) for size in tensor.shape]
        yield f"input {name} {tensor.dtype} {tensor.device} {tensor.requires_grad} {sizes}"
    yield f"fixed {sorted(call.fixed.items())!r}"
    first: dict[int, str] = {}
    model: nn.Module = call.model
    for name, tensor in model.named_parameters(remove_duplicate=False):
        tied = first.setdefault(id(tensor), name)
        yield f"parameter {name} {_kind(tensor)} {tensor.requires_grad} {tied}"
    for name, tensor in model.named_buffers(remove_duplicate=False):
        # The exporter's shape inference reads integers where they are sizes or indices.
        whole = not (tensor.is_floating_point() or tensor.is_complex())
        yield f"buffer {name} {_kind(tensor)} {_contents(tensor) if whole else ''}"
    for name, module in model.named_modules():
        kind = type(module)
        yield f"module {name} {kind.__module__}.{kind.__qualname__} {module.training}"


def _kind(tensor: torch.Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)} {tensor.device}"
