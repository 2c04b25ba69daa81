"""One name picks how a Hugging Face `Trainer` or Accelerate training step is accelerated."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Name -> module. Imported on first use: `import acpt_trainer` costs neither torch nor ONNX Runtime
# (ONNX Runtime training patches `torch.manual_seed` and checkpointing when it is imported).
_PUBLIC = {
    "AcceleratedSeq2SeqTrainer": "trainer",
    "AcceleratedTrainer": "trainer",
    "AcceleratedTrainerMixin": "trainer",
    "AcceleratorStrategy": "strategies.base",
    "AcptError": "errors",
    "ConfigurationError": "errors",
    "GraphBuildError": "errors",
    "IncompatibleStrategiesError": "errors",
    "Layer": "strategies.base",
    "NotEngagedError": "errors",
    "Problem": "errors",
    "Requirement": "requirements",
    "Status": "strategies.base",
    "StrategyReport": "report",
    "StrategyStatus": "strategies.base",
    "ThroughputCallback": "throughput",
    "TrainingContext": "strategies.base",
    "UnknownStrategyError": "errors",
    "available_strategies": "registry",
    "create_accelerator": "accelerator",
    "get_strategy": "registry",
    "last_checkpoint": "checkpoints",
    "ort_fused_adam": "ort.fused_adam",
    "peak_memory_mb": "measure.memory",
    "raise_if_any": "errors",
    "register_strategy": "registry",
    "reported_errors": "errors",
    "strategy_report": "accelerator",
}

__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
