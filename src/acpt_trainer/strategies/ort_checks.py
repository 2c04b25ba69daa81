"""What `ort` refuses before training: wheels, environment, arguments, parts of a model."""

from __future__ import annotations

import importlib.metadata
import os
from typing import TYPE_CHECKING, Any

from acpt_trainer.errors import Problem

if TYPE_CHECKING:
    from torch import nn

_FALLBACK = "ORTMODULE_FALLBACK_POLICY"


def fallback_problems() -> list[Problem]:
    """An environment that asks for a silent fallback to PyTorch."""
    policy = os.environ.get(_FALLBACK)
    if policy in (None, "FALLBACK_DISABLE"):
        return []
    return [
        Problem(
            "the environment asks ONNX Runtime to fall back to PyTorch",
            f"{_FALLBACK}={policy}",
            f"unset {_FALLBACK}; strategy 'ort' never falls back",
        )
    ]


def runtime_problems() -> list[Problem]:
    """Wheels that install the same modules over each other."""
    names = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-training", "onnxruntime-training-cpu")
    here = []
    for name in names:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        here.append(name)
    if len(here) < 2:
        return []
    return [
        Problem(
            f"the packages {', '.join(here)} overwrite each other's files",
            "installed packages",
            f"pip uninstall -y {' '.join(here)}; then pip install 'acpt-trainer[ort]'",
        )
    ]


def argument_problems(args: Any) -> list[Problem]:
    """Training arguments that ONNX Runtime's graph cannot honour."""
    found = []
    if getattr(args, "neftune_noise_alpha", None):
        found.append(
            Problem(
                "NEFTune's noise would be baked into the training graph as a constant",
                f"TrainingArguments(neftune_noise_alpha={args.neftune_noise_alpha})",
                "leave neftune_noise_alpha out, or use strategy='no_acc'",
            )
        )
    return found


def model_problems(model: nn.Module) -> list[Problem]:
    """Parts of a model that ONNX Runtime cannot train as PyTorch does."""
    from torch.nn.modules.batchnorm import _NormBase

    found = []
    for config in {
        id(m.config): m.config for m in model.modules() if hasattr(m, "config")
    }.values():
        for name in ("layerdrop", "encoder_layerdrop", "decoder_layerdrop"):
            if getattr(config, name, 0):
                found.append(
                    Problem(
                        "layer dropping is Python's choice and would be fixed in the graph",
                        f"{type(config).__name__}.{name}={getattr(config, name)}",
                        f"set {name}=0, or use strategy='no_acc' or 'ds'",
                    )
                )
    tracked = [
        n for n, m in model.named_modules() if isinstance(m, _NormBase) and m.track_running_stats
    ]
    if tracked:
        found.append(
            Problem(
                f"ONNX Runtime updates the running statistics of {len(tracked)} "
                "normalization layers otherwise than PyTorch",
                f"{type(model).__name__}.{tracked[0]}",
                "use strategy='no_acc' or 'ds', or freeze their statistics "
                "(track_running_stats=False)",
            )
        )
    return found
