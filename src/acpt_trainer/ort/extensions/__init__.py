"""ORTModule's two C++ extensions, loaded when a graph needs one and built then if need be.

Most graphs need neither, so most machines need no compiler. A symbolic that emits an `ATen` node
says so first: `extensions.require("aten_op_executor", operator="aten::_ctc_loss")`.

* `sources`: the sources in the installed wheel, and the edits that torch 2.13 needs.
* `store`: built once, kept in the user's cache.
"""

from __future__ import annotations

import atexit
import importlib.util
import sys
import types
from typing import Any

from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort.extensions import store
from acpt_trainer.ort.extensions.sources import EXTENSIONS

PACKAGE = "onnxruntime.training.ortmodule.torch_cpp_extensions"

_loaded: dict[str, types.ModuleType] = {}


def require(name: str, operator: str) -> types.ModuleType:
    """Loads an extension into this process and tells ONNX Runtime of it, once.

    Args:
        name: `torch_interop_utils` or `aten_op_executor`.
        operator: The operator or custom function that needs it, for messages.

    Returns:
        The extension.

    Raises:
        GraphBuildError: If it can neither be found nor built: the operator that needs it, and
            the packages to install.
    """
    if name not in _loaded:
        refusal, module = None, None
        try:
            module = load(name)
        except (GraphBuildError, ImportError) as error:
            refusal = GraphBuildError(
                f"{operator} needs ONNX Runtime's C++ extension {name}, {error}",
                fix=getattr(error, "fix", None),
            )
        if refusal is not None or module is None:
            raise refusal or AssertionError(name)  # alone: the whole of it is in this message
        _ENGAGE[name](module)
        _loaded[name] = module
    _stand_in(name, _loaded[name])
    return _loaded[name]


def loaded() -> tuple[str, ...]:
    """Names of the extensions that this process uses."""
    return tuple(sorted(_loaded))


def load(name: str) -> types.ModuleType:
    """Imports an extension from the cache, building it if need be; ONNX Runtime is not told."""
    import torch  # noqa: F401  its libraries are what the extension is linked to

    library = store.obtain(EXTENSIONS[name])
    spec = importlib.util.spec_from_file_location(name, library)
    if spec is None or spec.loader is None:
        raise ImportError(f"{library} is not a Python module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _stand_in(name: str, module: types.ModuleType) -> None:
    """Puts an extension where ORTModule imports it from; the patch there undoes that."""
    if PACKAGE in sys.modules:
        sys.modules[f"{PACKAGE}.{name}"] = module
        setattr(sys.modules[PACKAGE], name, module)


def _run_aten(executor: Any) -> None:
    """Lets ONNX Runtime run `ATen` nodes, beside those that need no extension."""
    from acpt_trainer.ort import torch_calls

    torch_calls.pass_on_to(
        executor.is_tensor_argument_address(), executor.execute_aten_operator_address()
    )


def _run_python(interop: Any) -> None:
    """Lets ONNX Runtime run `PythonOp` nodes."""
    from onnxruntime.capi import _pybind_state

    _pybind_state.register_forward_runner(interop.get_custom_function_forward_runner())
    _pybind_state.register_backward_runner(interop.get_custom_function_backward_runner())
    # Both hold Python objects that must be let go while Python still runs.
    atexit.register(_pybind_state.unregister_python_functions)
    atexit.register(interop.clear_all_grad_fns)


_ENGAGE = {"aten_op_executor": _run_aten, "torch_interop_utils": _run_python}
