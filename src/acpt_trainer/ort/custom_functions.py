"""Custom `torch.autograd.Function`s in a training graph: run in Python as they are, or refused.

The exporter would inline a function's forward, and ONNX Runtime would differentiate that: the
function's own backward would be lost in silence. Here each becomes a `PythonOp` node, which calls
the function's own forward and backward. The C++ extension that runs such nodes is loaded, and built
if need be, when the first one is exported. What a node cannot hold exactly is refused by name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort import extensions

_KIND = "prim::PythonOp"
_OPSET = 1  # a symbolic of this operator set serves all later ones, as in ORTModule's own

_names: dict[str, list[type]] = {}
"""The functions that ONNX Runtime knows by each name, for the life of the process."""


def export_in_python(stack: ExitStack) -> None:
    """Exports custom functions as `PythonOp` until the stack closes."""
    from onnxruntime.training.ortmodule import (
        _custom_autograd_function,
        _custom_autograd_function_exporter,
    )
    from torch.onnx import register_custom_op_symbolic, unregister_custom_op_symbolic
    from torch.onnx._internal.torchscript_exporter import utils

    from acpt_trainer.ort.mends import set_attribute

    # ORTModule reads this when it is constructed; its setter would say that runners are registered.
    switch = _custom_autograd_function.custom_autograd_function_enabler
    set_attribute(stack, switch, "_state", True)
    exporter = _custom_autograd_function_exporter
    set_attribute(stack, exporter, "get_fully_qualified_class_name", unique_name)
    # It knows two training modes; ours is to keep each submodule's own, in a graph that trains.
    set_attribute(stack, exporter, "_get_training_mode", lambda: True)
    set_attribute(stack, utils, "_run_symbolic_method", _own_symbolic(utils._run_symbolic_method))
    register_custom_op_symbolic(_KIND, _python_op, _OPSET)
    stack.callback(unregister_custom_op_symbolic, _KIND, _OPSET)


def unique_name(function: type) -> str:
    """A name for a function that no other function has.

    ONNX Runtime looks functions up by name and keeps the first one for ever: two that a factory
    made would run as one.
    """
    name = _name(function)
    known = _names.setdefault(name, [])
    if function not in known:
        known.append(function)
    index = known.index(function)
    return f"{name}_{index + 1}" if index else name


def _name(function: type) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _python_op(g: Any, *args: Any, **kwargs: Any) -> Any:
    """Exports one call of a custom function."""
    from onnxruntime.training.ortmodule._custom_autograd_function_exporter import _export_pt_1_10

    node = g.original_node
    function = node.pyobj().__self__
    called = f"the custom torch.autograd.Function {_name(function)}"
    if reason := _reason_against(function, node, args):
        raise GraphBuildError(f"{called} {reason}")
    extensions.require("torch_interop_utils", operator=called)
    exported = _export_pt_1_10(g, node, *args, **kwargs)
    values = exported if isinstance(exported, (tuple, list)) else (exported,)
    for value, traced in zip(values, node.outputs(), strict=True):
        # Types and ranks, which the exporter else warns of; sizes stay open.
        value.setType(traced.type().with_sizes([None] * traced.type().dim()))
    return exported


def _reason_against(function: Any, node: Any, args: tuple[Any, ...]) -> str | None:
    """Why a call cannot run exactly as in PyTorch, if so."""
    if function.__name__ == "CheckpointFunction":
        return "is gradient checkpointing, whose layers would run in PyTorch; switch it off"
    if function.__name__ == "BackwardHookFunction":
        return "is the backward hook of a layer, which belongs to one step's tensors; take it off"
    for argument, kind in zip(args, node.cconv(), strict=True):
        if kind == "c" and not _is_constant(argument):
            return (
                f"takes a {type(argument).__module__}.{type(argument).__qualname__}; what is in it "
                "would be fixed in the graph, which takes tensors and plain values"
            )
    for method in ("forward", "backward", "setup_context"):
        if held := _held(getattr(function, method)):
            return (
                f"uses {held} from the function around it, which would stay as it is now; "
                "pass it as an argument"
            )
    if any(not _is_typed_tensor(output) for output in node.outputs()):
        return "returns something other than tensors"
    return None


def _is_constant(value: Any) -> bool:
    """Whether a value cannot change between steps."""
    import torch

    if isinstance(value, (tuple, list)):
        return all(_is_constant(v) for v in value)
    plain = (bool, int, float, complex, str, torch.dtype, torch.device, torch.memory_format)
    return value is None or isinstance(value, plain)


def _held(method: Any) -> str | None:
    """The variable of an enclosing function that holds a tensor or a module, if there is one."""
    import torch

    code = getattr(method, "__code__", None)
    for name, cell in zip(getattr(code, "co_freevars", ()), method.__closure__ or (), strict=True):
        try:
            held = cell.cell_contents
        except ValueError:  # not set yet
            continue
        if isinstance(held, (torch.Tensor, torch.nn.Module)):
            return repr(name)
    return None


def _is_typed_tensor(value: Any) -> bool:
    return value.type().kind() == "TensorType" and value.type().scalarType() is not None


def _own_symbolic(run: Callable[..., Any]) -> Callable[..., Any]:
    """Refuses a function that exports itself, since its backward would be lost."""

    @functools.wraps(run)
    def run_symbolic_method(g: Any, op_name: str, symbolic: Any, args: Any) -> Any:
        if symbolic.__module__.startswith("onnxruntime."):
            return run(g, op_name, symbolic, args)  # ORTModule's own, whose gradient is the graph's
        function = f"{symbolic.__module__}.{symbolic.__qualname__}".removesuffix(".symbolic")
        raise GraphBuildError(
            f"the custom torch.autograd.Function {function} exports itself by its method "
            "symbolic, which ONNX Runtime would differentiate: its backward would be lost",
            fix=f"take the method symbolic off {function}, or train with 'no_acc' or 'ds'",
        )

    return run_symbolic_method
