"""What `ort` needs on a GPU: libraries of CUDA 11 beside torch's own, a known GPU, torch's stream.

None of this ever ran on a GPU: it follows from the code, and from loading the CUDA provider on a
machine without one. See the how-to on GPUs for what was checked and how.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from acpt_trainer.errors import GraphBuildError, Problem
from acpt_trainer.ort.mends import set_attribute

PROVIDER = "CUDAExecutionProvider"
LIBRARIES = (
    ("libcudart.so.11.0", "cuda_runtime", "nvidia-cuda-runtime-cu11"),
    ("libcublasLt.so.11", "cublas", "nvidia-cublas-cu11"),
    ("libcublas.so.11", "cublas", "nvidia-cublas-cu11"),
    ("libcufft.so.10", "cufft", "nvidia-cufft-cu11"),
    ("libcurand.so.10", "curand", "nvidia-curand-cu11"),
    ("libcudnn.so.8", "cudnn", "nvidia-cudnn-cu11<9"),
)
"""Library, folder under `nvidia`, package. In this order each finds what it needs itself."""

OLDEST, NEWEST = (6, 0), (9, 0)
"""Compute capabilities that CUDA 11.8's libraries have machine code for."""


def has_cuda() -> bool:
    """Whether the installed build of ONNX Runtime has kernels for a GPU."""
    import onnxruntime

    return PROVIDER in onnxruntime.get_available_providers()


def load_libraries() -> list[str]:
    """Loads the libraries of CUDA 11, so that the provider finds them when it is loaded.

    They are found by name once they are loaded, and their symbols stay their own: those of torch's
    CUDA are not touched.

    Returns:
        The packages whose libraries cannot be loaded, each with the library.
    """
    missing = []
    for library, folder, package in LIBRARIES:
        for candidate in (*_installed(folder, library), library):
            try:
                ctypes.CDLL(str(candidate))
                break
            except OSError:
                continue
        else:
            missing.append(f"{library} ({package})")
    return missing


def _installed(folder: str, library: str) -> Iterator[Path]:
    for entry in sys.path:
        path = Path(entry or ".", "nvidia", folder, "lib", library)
        if path.is_file():
            yield path


def problems() -> list[Problem]:
    """Everything that stands in the way of ONNX Runtime on this machine's GPU."""
    found = []
    if not _has_provider():
        found.append(
            Problem(
                "the installed ONNX Runtime is a build for CPUs",
                "installed packages",
                "pip uninstall -y onnxruntime-training-cpu; pip install 'acpt-trainer[ort-gpu]'",
            )
        )
    missing = load_libraries()
    if missing:
        found.append(
            Problem(
                f"libraries of CUDA 11 cannot be loaded: {', '.join(missing)}",
                "the CUDA build of onnxruntime-training 1.19.2 needs them beside torch's CUDA",
                "pip install 'acpt-trainer[ort-gpu]'",
            )
        )
    return found + _gpu_problems()


def _has_provider() -> bool:
    spec = importlib.util.find_spec("onnxruntime")
    folders = (spec.submodule_search_locations or ()) if spec else ()
    return any(Path(f, "capi", "libonnxruntime_providers_cuda.so").is_file() for f in folders)


def _gpu_problems() -> list[Problem]:
    import torch

    if not torch.cuda.is_available():
        return []
    capability = torch.cuda.get_device_capability()
    if OLDEST <= capability <= NEWEST:
        return []
    return [
        Problem(
            f"this GPU has compute capability {capability[0]}.{capability[1]}, and CUDA 11.8 "
            f"knows GPUs from {OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}",
            torch.cuda.get_device_name(),
            "use strategy='no_acc' or 'ds' on it",
        )
    ]


def verify_provider(module: Any) -> None:
    """Makes sure that a graph of a model on a GPU runs there.

    Where its CUDA provider cannot be loaded ONNX Runtime warns, and goes on with the CPU.

    Args:
        module: The ORTModule, after its first run.

    Raises:
        GraphBuildError: If the graph would run on the CPU.
    """
    manager = module._torch_module._execution_manager(True)
    providers = manager._execution_agent._inference_session.get_providers()
    if manager._device.type == "cuda" and PROVIDER not in providers:
        raise GraphBuildError(
            f"the model is on {manager._device}, and its graph would run with {providers}.\n"
            "    where: the warnings of ONNX Runtime above say what it could not load\n"
            "    fix:   pip install 'acpt-trainer[ort-gpu]', or use strategy='no_acc' or 'ds'"
        )


def share_stream(stack: ExitStack) -> None:
    """Runs graphs on torch's stream, with ONNX Runtime's own allocator; see `patches`."""
    manager = importlib.import_module(
        "onnxruntime.training.ortmodule._graph_execution_manager"
    ).GraphExecutionManager
    session_config = manager._get_session_config

    def no_allocator(self: Any) -> None:
        self._runtime_options.use_external_gpu_allocator = False

    @functools.wraps(session_config)
    def get_session_config(self: Any) -> Any:
        options, providers, provider_options = session_config(self)
        if PROVIDER in providers:
            import torch

            stream = torch.cuda.current_stream(self._device).cuda_stream
            provider_options[providers.index(PROVIDER)] |= {
                "has_user_compute_stream": "1",
                "user_compute_stream": str(stream),
            }
        return options, providers, provider_options

    set_attribute(stack, manager, "_get_torch_gpu_allocator_function_addresses", no_allocator)
    set_attribute(stack, manager, "_get_session_config", get_session_config)


def stream_of(device: Any) -> int | None:
    """The stream that torch computes on now; a graph keeps that of its first run."""
    import torch

    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else None


def available() -> bool:
    """Whether this machine has a GPU that torch can use."""
    import torch

    return bool(torch.cuda.is_available())
