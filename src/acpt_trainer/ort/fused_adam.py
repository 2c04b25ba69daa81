"""ONNX Runtime's fused Adam as a Trainer's optimizer; never run, since it needs a GPU."""

from __future__ import annotations

import importlib.util
from typing import Any

from acpt_trainer.errors import Problem, raise_if_any

_FUSED_OPS = "onnxruntime.training.ortmodule.torch_cpp_extensions.fused_ops"
_TORCHS_ADAMW = 2


def ort_fused_adam(args: Any) -> tuple[type, dict[str, Any]]:
    """Class and arguments of ONNX Runtime's `FusedAdam` that compute torch's AdamW.

    Args:
        args: `TrainingArguments`; learning rate, betas and epsilon are taken from them. Weight
            decay is by parameter group, which `Trainer` makes.

    Returns:
        What `Trainer(optimizer_cls_and_kwargs=...)` takes.

    Raises:
        ConfigurationError: If there is no GPU, or its kernels are not compiled.

    Example:
        >>> AcceleratedTrainer(..., optimizer_cls_and_kwargs=ort_fused_adam(args), strategy="ort")
    """
    import torch

    where, instead = "ort_fused_adam(args)", "use TrainingArguments(optim='adamw_torch_fused')"
    problems = []
    if not torch.cuda.is_available():
        problems.append(
            Problem("ONNX Runtime's fused Adam has kernels for CUDA only", where, instead)
        )
    elif not _compiled():
        problems.append(
            Problem(
                "the kernels of ONNX Runtime's fused Adam are not compiled",
                _FUSED_OPS,
                f"{instead}, which is fused as well; or compile ORTModule's extensions: python -m "
                "onnxruntime.training.ortmodule.torch_cpp_extensions.install",
            )
        )
    raise_if_any(problems, "Cannot use ONNX Runtime's fused Adam")
    from onnxruntime.training.optim.fused_adam import FusedAdam

    return FusedAdam, {
        "lr": args.learning_rate,
        "betas": (args.adam_beta1, args.adam_beta2),
        "eps": args.adam_epsilon,
        # 1, the default, is the AdamW that transformers once had: it decays after the update.
        "adam_w_mode": _TORCHS_ADAMW,
    }


def _compiled() -> bool:
    try:
        return importlib.util.find_spec(_FUSED_OPS) is not None
    except ImportError:
        return False
