"""How each patch is applied; why, and for which versions, stands in `patches`.

A mend puts itself in place and registers its undoing on the stack that it is given.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import types
from contextlib import ExitStack
from typing import Any

from acpt_trainer.ort.extensions import PACKAGE as _EXTENSIONS
from acpt_trainer.ort.extensions import sources
from acpt_trainer.requirements import import_deepspeed

_EXPORTER = "torch.onnx._internal.torchscript_exporter"


def always() -> bool:
    """For a patch that every supported version needs."""
    return True


def set_attribute(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Sets an attribute and undoes that when the stack closes."""
    missing = object()
    # From the dictionary: reading a class method or static method by `getattr` would bind it.
    before = vars(owner).get(name, missing)
    setattr(owner, name, value)
    if before is missing:
        stack.callback(delattr, owner, name)
    else:
        stack.callback(setattr, owner, name, before)


def set_module(stack: ExitStack, name: str, module: types.ModuleType) -> None:
    """Makes `import name` give `module`, as an attribute of its parent too."""
    before = sys.modules.get(name)
    sys.modules[name] = module
    parent, _, leaf = name.rpartition(".")
    if parent in sys.modules:
        set_attribute(stack, sys.modules[parent], leaf, module)
    if before is None:
        stack.callback(sys.modules.pop, name, None)
    else:
        stack.callback(sys.modules.__setitem__, name, before)


def set_variable(stack: ExitStack, name: str, value: str) -> None:
    """Sets an environment variable and undoes that when the stack closes."""
    before = os.environ.get(name)
    os.environ[name] = value
    if before is None:
        stack.callback(os.environ.pop, name, None)
    else:
        stack.callback(os.environ.__setitem__, name, before)


def exporter_moved() -> bool:
    """Whether torch keeps the TorchScript exporter in its newer place."""
    return (
        importlib.util.find_spec(_EXPORTER) is not None
        and importlib.util.find_spec("torch.onnx._internal.jit_utils") is None
    )


def alias_exporter(stack: ExitStack) -> None:
    """Makes the exporter's modules importable from where they were."""

    for old, new in (
        ("torch.onnx._internal.jit_utils", "jit_utils"),
        ("torch.onnx._internal.registration", "registration"),
        ("torch.onnx._globals", "_globals"),
        ("torch.onnx._type_utils", "_type_utils"),
    ):
        set_module(stack, old, importlib.import_module(f"{_EXPORTER}.{new}"))
    public = importlib.import_module("torch.onnx.symbolic_opset9")
    private = importlib.import_module(f"{_EXPORTER}.symbolic_opset9")
    for name in ("_convolution", "_convolution_mode"):
        if not hasattr(public, name):
            set_attribute(stack, public, name, getattr(private, name))


def load_extensions_on_demand(stack: ExitStack) -> None:
    """Stands in for the two compiled extensions until `extensions.require` brings one in."""
    package = types.ModuleType(_EXTENSIONS)
    package.__path__ = [str(sources.folder())]
    # ORTModule asks this before it starts, when nobody knows yet whether a graph needs one.
    package.is_installed = lambda path: True  # type: ignore[attr-defined]
    cpu = types.ModuleType(f"{_EXTENSIONS}.cpu")
    cpu.__path__ = [os.path.join(package.__path__[0], "cpu")]
    executor = types.ModuleType(f"{_EXTENSIONS}.cpu.aten_op_executor")
    executor.load_aten_op_executor_cpp_extension = lambda: None  # type: ignore[attr-defined]
    # Imported even where custom functions are switched off, and then not used.
    interop = types.ModuleType(f"{_EXTENSIONS}.torch_interop_utils")
    for module in (package, cpu, executor, interop):
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, loader=None)
        set_module(stack, module.__name__, module)
    # Read when ORTModule is imported, which would then ask the extension for its runners.
    set_variable(stack, "ORTMODULE_ENABLE_CUSTOM_AUTOGRAD", "0")


def contain_import(stack: ExitStack) -> None:
    """Imports ORTModule and gives torch and DeepSpeed their own functions back."""
    import torch
    import torch.utils.checkpoint

    owners: list[tuple[Any, str]] = [
        (torch, "manual_seed"),
        (torch.cuda, "manual_seed"),
        (torch.utils.checkpoint, "checkpoint"),
    ]
    if importlib.util.find_spec("deepspeed"):
        with contextlib.suppress(ImportError):  # ORTModule does without it, too
            owners.append((import_deepspeed().checkpointing, "checkpoint"))
    before = [(owner, name, getattr(owner, name)) for owner, name in owners]
    importlib.import_module("onnxruntime.training.ortmodule")
    for owner, name, value in before:
        setattr(owner, name, value)


def no_cuda() -> bool:
    """Whether this machine has no CUDA device."""
    import torch

    return not torch.cuda.is_available()


def silence_nvtx(stack: ExitStack) -> None:
    """Makes the profiling ranges do nothing."""
    profile = importlib.import_module("onnxruntime.training.utils.torch_profile_utils")
    set_attribute(stack, profile, "torch_nvtx_range_push", lambda message: None)
    set_attribute(stack, profile, "torch_nvtx_range_pop", lambda: None)


def preserve_modes(stack: ExitStack) -> None:
    """Leaves each submodule in the mode that it is in."""
    import torch.onnx

    engine = importlib.import_module("onnxruntime.training.ortmodule").ORTModule

    def train(self: Any, mode: bool = True) -> Any:
        self.training = mode
        return self

    set_attribute(stack, engine, "train", train)
    export = torch.onnx.export

    @functools.wraps(export)
    def export_preserving(*args: Any, **kwargs: Any) -> Any:
        return export(*args, **{**kwargs, "training": torch.onnx.TrainingMode.PRESERVE})

    set_attribute(stack, torch.onnx, "export", export_preserving)


def choose_exporter(stack: ExitStack) -> None:
    """Exports with the TorchScript exporter unless told otherwise."""
    import torch.onnx

    export = torch.onnx.export

    @functools.wraps(export)
    def export_torchscript(*args: Any, **kwargs: Any) -> Any:
        return export(*args, **{"dynamo": False, **kwargs})

    set_attribute(stack, torch.onnx, "export", export_torchscript)


def disable_fallback(stack: ExitStack) -> None:
    """Switches off every fallback to PyTorch."""
    set_variable(stack, "ORTMODULE_FALLBACK_POLICY", "FALLBACK_DISABLE")
    set_variable(stack, "ORTMODULE_FALLBACK_RETRY", "false")


def leave_slices(stack: ExitStack) -> None:
    """Switches off the optimizer that moves slices towards the inputs."""
    set_variable(stack, "ORTMODULE_ENABLE_COMPUTE_OPTIMIZER", "0")


def ignore_density(stack: ExitStack) -> None:
    """Leaves out the hooks that count padding in the first batch."""
    manager = importlib.import_module(
        "onnxruntime.training.ortmodule._graph_transition_manager"
    ).GraphTransitionManager
    for name in ("_add_check_embedding_sparsity_hook", "_add_check_label_sparsity_hook"):
        set_attribute(stack, manager, name, staticmethod(lambda *_: []))


def register_symbolics(stack: ExitStack) -> None:
    """Holds our symbolics in the exporter."""
    from acpt_trainer.ort import registration

    stack.enter_context(registration.registered())
