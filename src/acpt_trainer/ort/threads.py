"""Cores shared between PyTorch's threads and ONNX Runtime's, which take turns in a step.

Who waits should leave the cores to who works. ONNX Runtime has an option for that. PyTorch's
OpenMP has none once it runs: for some 10 ms after each call its threads spin, on the cores that
ONNX Runtime goes on with. To end them is what is left; the next call starts them again, in some
50 microseconds.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import re
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch

from acpt_trainer.ort.mends import set_attribute

_ENDED = 2
"""OpenMP's `omp_pause_hard`."""


def share(stack: ExitStack) -> None:
    """Gives sessions as many threads as PyTorch has, and lets none of them spin."""
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

    set_attribute(stack, manager, "_get_session_config", get_session_config)


def end_pytorchs() -> None:
    """Ends the threads that PyTorch's calls in this thread have started."""
    pause = _pause()
    if pause is not None:
        pause(_ENDED)


@functools.cache
def _pause() -> Callable[[int], int] | None:
    """`omp_pause_resource_all` of the OpenMP library that PyTorch uses (OpenMP 5.0, 3.2.44)."""
    maps = Path("/proc/self/maps")
    text = maps.read_text(encoding="utf-8") if maps.exists() else ""
    loaded = set(re.findall(r"/\S*/lib(?:g|i)?omp5?[^/\s]*\.so\S*", text))
    own = str(Path(torch.__file__).parent)  # other packages bring OpenMP libraries, too
    for path in sorted(loaded, key=lambda path: (not path.startswith(own), path)):
        library = ctypes.CDLL(path)
        if hasattr(library, "omp_pause_resource_all"):
            return cast(Callable[[int], int], library.omp_pause_resource_all)
    return None
