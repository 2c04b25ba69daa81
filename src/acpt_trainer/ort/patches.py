"""Every patch that makes onnxruntime-training 1.19.2 run on current PyTorch, one reason each."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from typing import Any

_EXPORTER = "torch.onnx._internal.torchscript_exporter"
_EXTENSIONS = "onnxruntime.training.ortmodule.torch_cpp_extensions"
_UNMAINTAINED = "none open: ONNX Runtime training is no longer maintained (onnxruntime#24905)"


class Scope(Enum):
    """How long a patch stays in place."""

    PROCESS = "from the first use of ONNX Runtime training until `stop()`"
    BUILD = "only while a training graph is exported and built"


@dataclass(frozen=True)
class Patch:
    """One mend of a foreign library.

    Attributes:
        name: Short name, shown by reports.
        target: What is patched.
        versions: The versions it is for.
        why: What breaks without it.
        upstream: The upstream report.
        until: When it can go.
        scope: How long it stays in place.
        needed: Whether the installed versions need it; a patch that is not needed is inert.
        apply: Puts it in place and registers its undoing on the given stack.
    """

    name: str
    target: str
    versions: str
    why: str
    upstream: str
    until: str
    scope: Scope
    needed: Callable[[], bool]
    apply: Callable[[ExitStack], None]


def _always() -> bool:
    return True


def _set(stack: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Sets an attribute and undoes that when the stack closes."""
    missing = object()
    # From the dictionary: reading a class method or static method by `getattr` would bind it.
    before = vars(owner).get(name, missing)
    setattr(owner, name, value)
    if before is missing:
        stack.callback(delattr, owner, name)
    else:
        stack.callback(setattr, owner, name, before)


def _set_module(stack: ExitStack, name: str, module: types.ModuleType) -> None:
    """Makes `import name` give `module`, as an attribute of its parent too."""
    before = sys.modules.get(name)
    sys.modules[name] = module
    parent, _, leaf = name.rpartition(".")
    if parent in sys.modules:
        _set(stack, sys.modules[parent], leaf, module)
    if before is None:
        stack.callback(sys.modules.pop, name, None)
    else:
        stack.callback(sys.modules.__setitem__, name, before)


# --- exporter module aliases ---------------------------------------------------------------------


def _exporter_moved() -> bool:
    return (
        importlib.util.find_spec(_EXPORTER) is not None
        and importlib.util.find_spec("torch.onnx._internal.jit_utils") is None
    )


def _alias_exporter(stack: ExitStack) -> None:

    for old, new in (
        ("torch.onnx._internal.jit_utils", "jit_utils"),
        ("torch.onnx._internal.registration", "registration"),
        ("torch.onnx._globals", "_globals"),
        ("torch.onnx._type_utils", "_type_utils"),
    ):
        _set_module(stack, old, importlib.import_module(f"{_EXPORTER}.{new}"))
    public = importlib.import_module("torch.onnx.symbolic_opset9")
    private = importlib.import_module(f"{_EXPORTER}.symbolic_opset9")
    for name in ("_convolution", "_convolution_mode"):
        if not hasattr(public, name):
            _set(stack, public, name, getattr(private, name))


# --- C++ extensions ------------------------------------------------------------------------------


def _extensions_absent() -> bool:
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or not spec.submodule_search_locations:
        return False
    folder = os.path.join(spec.submodule_search_locations[0], *_EXTENSIONS.split(".")[1:])
    return not any(
        name.endswith((".so", ".dll", ".dylib"))
        for _, _, names in os.walk(folder)
        for name in names
    )


def _replace_extensions(stack: ExitStack) -> None:
    folder = importlib.util.find_spec("onnxruntime").submodule_search_locations[0]  # type: ignore[union-attr,index]
    package = types.ModuleType(_EXTENSIONS)
    package.__path__ = [os.path.join(folder, *_EXTENSIONS.split(".")[1:])]
    # ORTModule asks this before it starts. Our symbolics export no operator that needs them.
    package.is_installed = lambda path: True  # type: ignore[attr-defined]
    cpu = types.ModuleType(f"{_EXTENSIONS}.cpu")
    cpu.__path__ = [os.path.join(package.__path__[0], "cpu")]
    executor = types.ModuleType(f"{_EXTENSIONS}.cpu.aten_op_executor")
    executor.load_aten_op_executor_cpp_extension = lambda: None  # type: ignore[attr-defined]
    # Imported even where custom functions are switched off, and then not used.
    interop = types.ModuleType(f"{_EXTENSIONS}.torch_interop_utils")
    for module in (package, cpu, executor, interop):
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, loader=None)
        _set_module(stack, module.__name__, module)
    # Read when ORTModule is imported: without the extension there is nothing to run PythonOps.
    before = os.environ.get("ORTMODULE_ENABLE_CUSTOM_AUTOGRAD")
    os.environ["ORTMODULE_ENABLE_CUSTOM_AUTOGRAD"] = "0"
    if before is None:
        stack.callback(os.environ.pop, "ORTMODULE_ENABLE_CUSTOM_AUTOGRAD", None)
    else:
        stack.callback(os.environ.__setitem__, "ORTMODULE_ENABLE_CUSTOM_AUTOGRAD", before)


# --- what importing ORTModule does to torch ------------------------------------------------------


def _contain_import(stack: ExitStack) -> None:
    import torch
    import torch.utils.checkpoint

    owners: list[tuple[Any, str]] = [
        (torch, "manual_seed"),
        (torch.cuda, "manual_seed"),
        (torch.utils.checkpoint, "checkpoint"),
    ]
    if "deepspeed" in sys.modules or importlib.util.find_spec("deepspeed"):
        with contextlib.suppress(ImportError):
            checkpointing = importlib.import_module("deepspeed").checkpointing
            owners.append((checkpointing, "checkpoint"))
    before = [(owner, name, getattr(owner, name)) for owner, name in owners]
    importlib.import_module("onnxruntime.training.ortmodule")
    for owner, name, value in before:
        setattr(owner, name, value)


# --- profiling ranges ----------------------------------------------------------------------------


def _no_cuda() -> bool:
    import torch

    return not torch.cuda.is_available()


def _silence_nvtx(stack: ExitStack) -> None:
    profile = importlib.import_module("onnxruntime.training.utils.torch_profile_utils")
    _set(stack, profile, "torch_nvtx_range_push", lambda message: None)
    _set(stack, profile, "torch_nvtx_range_pop", lambda: None)


# --- gradients of frozen parameters --------------------------------------------------------------


def _filter_frozen_parameters(stack: ExitStack) -> None:
    manager = importlib.import_module(
        "onnxruntime.training.ortmodule._graph_transition_manager"
    ).GraphTransitionManager
    export = manager._export_model

    @functools.wraps(export)
    def export_model(**kwargs: Any) -> Any:
        model, schema, names, require_grad = export(**kwargs)
        frozen = {
            name
            for name, parameter in kwargs["flattened_module"].named_parameters()
            if not parameter.requires_grad
        }
        return model, schema, names, [name for name in require_grad if name not in frozen]

    _set(stack, manager, "_export_model", staticmethod(export_model))


# --- threads -------------------------------------------------------------------------------------


def _share_threads(stack: ExitStack) -> None:
    import torch

    manager = importlib.import_module(
        "onnxruntime.training.ortmodule._graph_execution_manager"
    ).GraphExecutionManager
    session_config = manager._get_session_config

    @functools.wraps(session_config)
    def get_session_config(self: Any) -> Any:
        options, providers, provider_options = session_config(self)
        options.intra_op_num_threads = torch.get_num_threads()
        # Between two steps the optimizer needs the cores that idle ORT threads would spin on.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options, providers, provider_options

    _set(stack, manager, "_get_session_config", get_session_config)


# --- building a graph ----------------------------------------------------------------------------


def _choose_exporter(stack: ExitStack) -> None:
    import torch.onnx

    export = torch.onnx.export

    @functools.wraps(export)
    def export_torchscript(*args: Any, **kwargs: Any) -> Any:
        return export(*args, **{"dynamo": False, **kwargs})

    _set(stack, torch.onnx, "export", export_torchscript)


def _disable_fallback(stack: ExitStack) -> None:
    for name, value in (
        ("ORTMODULE_FALLBACK_POLICY", "FALLBACK_DISABLE"),
        ("ORTMODULE_FALLBACK_RETRY", "false"),
    ):
        before = os.environ.get(name)
        os.environ[name] = value
        if before is None:
            stack.callback(os.environ.pop, name, None)
        else:
            stack.callback(os.environ.__setitem__, name, before)


def _register_symbolics(stack: ExitStack) -> None:
    from acpt_trainer.ort import symbolics

    stack.enter_context(symbolics.registered())


def _refuse_custom_functions(stack: ExitStack) -> None:
    import torch

    from acpt_trainer.errors import GraphBuildError

    original = vars(torch.autograd.Function)["apply"].__func__

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if cls.__module__.startswith("onnxruntime."):
            return original(cls, *args, **kwargs)  # ORTModule's own: it knows their gradients
        raise GraphBuildError(
            f"the model uses the custom torch.autograd.Function "
            f"{cls.__module__}.{cls.__qualname__}, whose backward ONNX Runtime cannot run"
        )

    _set(stack, torch.autograd.Function, "apply", classmethod(apply))


PATCHES: tuple[Patch, ...] = (
    Patch(
        name="exporter-aliases",
        target="torch.onnx._internal.{jit_utils,registration}, torch.onnx.{_globals,_type_utils}",
        versions="torch >= 2.8 with onnxruntime-training <= 1.19.2",
        why="ORTModule imports the TorchScript exporter from where it was in 2024: ImportError",
        upstream=_UNMAINTAINED,
        until="onnxruntime-training imports from the new place",
        scope=Scope.PROCESS,
        needed=_exporter_moved,
        apply=_alias_exporter,
    ),
    Patch(
        name="no-extensions",
        target="onnxruntime.training.ortmodule.torch_cpp_extensions",
        versions="onnxruntime-training 1.19.2 where `torch_ort.configure` was not run",
        why="ORTModule refuses to start without two C++ extensions, of which one does not compile "
        "on torch 2.13; our symbolics export no operator that needs them",
        upstream=_UNMAINTAINED,
        until="the extensions are shipped compiled",
        scope=Scope.PROCESS,
        needed=_extensions_absent,
        apply=_replace_extensions,
    ),
    Patch(
        name="contained-import",
        target="torch.manual_seed, torch.cuda.manual_seed, torch.utils.checkpoint.checkpoint, "
        "deepspeed.checkpointing.checkpoint",
        versions="onnxruntime-training 1.19.2",
        why="importing ORTModule replaces them for the whole process; ours seeds ONNX Runtime per "
        "step instead (see `forward`)",
        upstream=_UNMAINTAINED,
        until="ORTModule stops patching torch at import",
        scope=Scope.PROCESS,
        needed=_always,
        apply=_contain_import,
    ),
    Patch(
        name="no-nvtx",
        target="onnxruntime.training.utils.torch_profile_utils",
        versions="onnxruntime-training 1.19.2 on a machine without CUDA",
        why="NVTX ranges are pushed on CPU builds too: 'NVTX functions not installed'",
        upstream=_UNMAINTAINED,
        until="the ranges are pushed on CUDA only",
        scope=Scope.PROCESS,
        needed=_no_cuda,
        apply=_silence_nvtx,
    ),
    Patch(
        name="frozen-parameters",
        target="GraphTransitionManager._export_model",
        versions="onnxruntime-training 1.19.2",
        why="gradients are computed and returned for parameters with requires_grad=False",
        upstream=_UNMAINTAINED,
        until="ORTModule leaves frozen parameters out of the gradient graph",
        scope=Scope.PROCESS,
        needed=_always,
        apply=_filter_frozen_parameters,
    ),
    Patch(
        name="shared-threads",
        target="GraphExecutionManager._get_session_config",
        versions="onnxruntime-training 1.19.2",
        why="each session takes all cores and spins on them, whatever torch.set_num_threads says; "
        "two ranks on one machine then fight for the cores",
        upstream=_UNMAINTAINED,
        until="ORTModule offers the session's thread options",
        scope=Scope.PROCESS,
        needed=_always,
        apply=_share_threads,
    ),
    Patch(
        name="torchscript-exporter",
        target="torch.onnx.export",
        versions="torch >= 2.9",
        why="the default became the dynamo exporter, whose graphs ORTModule cannot differentiate",
        upstream="https://github.com/pytorch/pytorch/pull/159646 (default to dynamo export)",
        until="ORTModule passes dynamo=False itself",
        scope=Scope.BUILD,
        needed=_always,
        apply=_choose_exporter,
    ),
    Patch(
        name="no-fallback",
        target="ORTMODULE_FALLBACK_POLICY",
        versions="onnxruntime-training 1.19.2",
        why="by default a failed export trains in PyTorch after one warning",
        upstream="https://github.com/pytorch/ort/issues/114",
        until="never: not falling back is this package's promise",
        scope=Scope.BUILD,
        needed=_always,
        apply=_disable_fallback,
    ),
    Patch(
        name="symbolics",
        target="torch.onnx.register_custom_op_symbolic",
        versions="torch 2.13 with onnxruntime-training 1.19.2",
        why="operators that are exported without a gradient, with a wrong one, or through ATen; "
        "each is named in `acpt_trainer.ort.symbolics`",
        upstream=_UNMAINTAINED,
        until="each symbolic says so itself",
        scope=Scope.BUILD,
        needed=_always,
        apply=_register_symbolics,
    ),
    Patch(
        name="no-inlined-functions",
        target="torch.autograd.Function.apply",
        versions="all",
        why="without the interop extension the exporter inlines a custom function's forward and "
        "differentiates that: the custom backward is silently lost",
        upstream=_UNMAINTAINED,
        until="PythonOp runs on current torch",
        scope=Scope.BUILD,
        needed=_always,
        apply=_refuse_custom_functions,
    ),
)

_process: ExitStack | None = None
_active: tuple[str, ...] = ()


def start() -> tuple[str, ...]:
    """Applies the process-wide patches and imports ORTModule, once.

    Returns:
        The names of the patches that are in place.

    Raises:
        ImportError: If onnxruntime-training is not installed.
    """
    global _process, _active
    if _process is None:
        stack = ExitStack()
        try:
            applied = [p for p in PATCHES if p.scope is Scope.PROCESS and p.needed()]
            for patch in applied:
                patch.apply(stack)
        except BaseException:
            stack.close()
            raise
        _process, _active = stack, tuple(patch.name for patch in applied)
    return _active


def stop() -> None:
    """Undoes the process-wide patches.

    ONNX Runtime stays imported, so starting again only applies them anew.
    """
    global _process, _active
    if _process is not None:
        _process.close()
        _process, _active = None, ()


def active() -> tuple[str, ...]:
    """Names of the process-wide patches in place; empty when no `ort` strategy runs."""
    return _active


@contextlib.contextmanager
def building() -> Iterator[None]:
    """Holds the patches that are needed while a training graph is exported and built."""
    with ExitStack() as stack:
        for patch in PATCHES:
            if patch.scope is Scope.BUILD and patch.needed():
                patch.apply(stack)
        yield
