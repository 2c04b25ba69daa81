"""Python functions of PyTorch as nodes of a graph, without a compiler.

ONNX Runtime runs an `ATen` node through two C functions that it is told of. ORTModule compiles them
in its extension `aten_op_executor`; here they are ctypes callbacks. Tensors are passed as DLPack,
so that nothing is copied. Operators that are not ours are passed on to the extension, if it is
loaded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.dlpack import from_dlpack, to_dlpack

from acpt_trainer.ort import threads

DOMAIN = "org.pytorch.aten"

_FRESH, _TAKEN = b"dltensor", b"used_dltensor"  # names of a DLPack capsule, by the standard
_Pointers = ctypes.POINTER(ctypes.c_void_p)
_IsTensor = ctypes.CFUNCTYPE(
    ctypes.c_bool, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_bool
)
_Execute = ctypes.CFUNCTYPE(
    None,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_size_t,
    _Pointers,
    ctypes.c_size_t,
    _Pointers,
)
_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)
_rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_SetName", ctypes.pythonapi)
)

Function = Callable[..., torch.Tensor | tuple[torch.Tensor, ...]]

_functions: dict[bytes, Function] = {}
_others: tuple[Any, Any] | None = None
_failures: list[BaseException] = []


def engage(name: str, function: Function) -> None:
    """Lets graphs of this process have a function as an operator.

    Args:
        name: The attribute `operator` of its `ATen` nodes.
        function: Takes the node's tensors and returns its output or outputs, in memory of their
            own. It is given the graph's memory: it keeps none and writes into none.
    """
    _functions[name.encode()] = function
    _register()


def node(name: str, inputs: Sequence[str], *outputs: str) -> Any:
    """A node of a graph that calls a function, an `onnx.NodeProto`."""
    from onnx import helper

    return helper.make_node("ATen", inputs, outputs, domain=DOMAIN, operator=name, overload_name="")


def floats(graph: Any) -> frozenset[str]:
    """The values of a graph that are known to be float32, as what our functions compute is."""
    from onnx import TensorProto

    known = (*graph.value_info, *graph.input, *graph.output)
    kind = TensorProto.FLOAT
    return frozenset(v.name for v in known if v.type.tensor_type.elem_type == kind)


def pass_on_to(is_tensor: int, execute: int) -> None:
    """Lets C functions at two addresses run every operator that is not ours."""
    global _others
    _others = _IsTensor(is_tensor), _Execute(execute)
    _register()


def raise_failure() -> None:
    """Raises what a function raised while a graph ran: no exception goes through C."""
    if _failures:
        failure = _failures[0]
        _failures.clear()
        raise failure


def _register() -> None:
    from onnxruntime.capi import _pybind_state

    addresses = [ctypes.cast(f, ctypes.c_void_p).value for f in (_IS_TENSOR, _EXECUTE)]
    _pybind_state.register_aten_op_executor(*map(str, addresses))


def _is_tensor(operator: bytes, overload: bytes, index: int, is_input: bool) -> bool:
    if operator in _functions or _others is None:
        return True
    return bool(_others[0](operator, overload, index, is_input))


def _execute(
    operator: bytes, overload: bytes, taken: int, inputs: Any, given: int, outputs: Any
) -> None:
    function = _functions.get(operator)
    if function is None and _others is not None:
        _others[1](operator, overload, taken, inputs, given, outputs)
        return
    try:
        if function is None:
            raise RuntimeError(f"nothing in this process runs aten::{operator.decode()}")
        with torch.no_grad():
            found = function(*[from_dlpack(_new(inputs[i], _FRESH, None)) for i in range(taken)])
    except BaseException as error:
        _failures.append(error)
        found = (torch.empty(0),) * given
    threads.end_pytorchs()
    for index, value in enumerate((found,) if torch.is_tensor(found) else found):
        capsule = to_dlpack(value)
        outputs[index] = _pointer(capsule, _FRESH)
        _rename(capsule, _TAKEN)  # ONNX Runtime frees it


_IS_TENSOR, _EXECUTE = _IsTensor(_is_tensor), _Execute(_execute)
