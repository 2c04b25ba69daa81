"""`ort`: the forward and backward pass in ONNX Runtime training, on the plain model in place."""

from __future__ import annotations

import importlib.metadata
import os
from typing import TYPE_CHECKING, Any, ClassVar

from acpt_trainer.errors import Problem
from acpt_trainer.requirements import Requirement
from acpt_trainer.strategies.base import (
    AcceleratorStrategy,
    Layer,
    Status,
    StrategyStatus,
    TrainingContext,
)

if TYPE_CHECKING:
    from torch import nn

    from acpt_trainer.ort.forward import OrtForward

_FALLBACK = "ORTMODULE_FALLBACK_POLICY"


class OrtStrategy(AcceleratorStrategy):
    """ONNX Runtime training.

    Args:
        max_graphs: How many training graphs may be exported before training stops. A graph is
            exported for each set of argument names, types and ranks; shapes are dynamic.
    """

    name: ClassVar[str] = "ort"
    layer: ClassVar[Layer] = Layer.MODULE
    description: ClassVar[str] = "forward and backward in ONNX Runtime training (ORTModule)"
    requires: ClassVar[tuple[Requirement, ...]] = (
        Requirement(
            "onnxruntime.training", ("onnxruntime-training-cpu", "onnxruntime-training"), "ort"
        ),
        Requirement("onnx", ("onnx",), "ort"),
    )
    conflicts: ClassVar[dict[str, str]] = {
        "compile": "both swap the model's forward pass",
        "ds_compile": "both swap the model's forward pass",
        "fsdp": "ORTModule needs whole parameters, and FSDP shards them",
    }

    def __init__(self, max_graphs: int = 8) -> None:
        self.max_graphs = max_graphs
        self._forward: OrtForward | None = None
        self._last: StrategyStatus | None = None

    def options(self) -> dict[str, Any]:
        """The options that it was built with."""
        return {"max_graphs": self.max_graphs}

    def precisions(self, device: str) -> tuple[str, ...]:
        """Half precision on CUDA only: ONNX Runtime's CPU kernels have no bfloat16."""
        return ("fp16", "fp32") if device == "cuda" else ("fp32",)

    def problems(self, context: TrainingContext) -> list[Problem]:
        """What ORTModule cannot run, refused by name before anything is trained."""
        found = super().problems(context)
        if (
            isinstance(self.max_graphs, bool)
            or not isinstance(self.max_graphs, int)
            or self.max_graphs < 1
        ):
            found.append(
                Problem(
                    f"max_graphs is {self.max_graphs!r}", "options of 'ort'", "give an int >= 1"
                )
            )
        policy = os.environ.get(_FALLBACK)
        if policy not in (None, "FALLBACK_DISABLE"):
            found.append(
                Problem(
                    "the environment asks ONNX Runtime to fall back to PyTorch",
                    f"{_FALLBACK}={policy}",
                    f"unset {_FALLBACK}; strategy 'ort' never falls back",
                )
            )
        found += _two_runtimes()
        if context.args is not None:
            found += _argument_problems(context.args)
        if context.model is not None:
            found += _model_problems(context.model)
        return found

    def wrap_model(self, model: nn.Module) -> nn.Module:
        """Replaces `model.forward`; the model object stays what it is."""
        from acpt_trainer.ort.forward import OrtForward, attach

        if isinstance(model.__dict__.get("forward"), OrtForward):
            self._forward = model.__dict__["forward"]
        else:
            self._forward = attach(model, max_graphs=self.max_graphs)
        self._last = None
        return model

    def status(self) -> StrategyStatus:
        """Engaged when ONNX Runtime ran a forward and a backward pass."""
        if self._last is not None:
            return self._last
        forward = self._forward
        if forward is None:
            return StrategyStatus.pending("the model is not prepared for training yet")
        evidence = self._evidence(forward)
        if forward.released:
            return StrategyStatus.fell_back(
                "another user of the model took ONNX Runtime off it", evidence
            )
        if forward.calls and forward.backward_calls:
            return StrategyStatus.engaged(evidence)
        missing = "backward" if forward.calls else "forward"
        return StrategyStatus(
            Status.PENDING,
            evidence,
            f"ONNX Runtime ran no {missing} pass of {type(forward.model).__name__} yet; a loss "
            "that calls parts of the model instead of the model itself goes past it, and so does "
            "a model in eval mode (call model.train())",
        )

    def _evidence(self, forward: OrtForward) -> dict[str, Any]:
        from acpt_trainer.ort import patches

        graphs = list(forward.graphs.values())
        evidence: dict[str, Any] = {
            "grad_fn": forward.grad_fn,
            "forward_calls": forward.calls,
            "graphs": len(graphs),
            "graphs_limit": self.max_graphs,
            "patches": list(patches.active()),
        }
        if graphs and graphs[-1].summary is not None:
            evidence |= graphs[-1].summary.to_dict()
            evidence["export_seconds"] = sum(g.summary.export_seconds for g in graphs if g.summary)
            evidence["build_seconds"] = sum(g.summary.build_seconds for g in graphs if g.summary)
            evidence["tracer_warnings"] = sum(len(g.tracer_warnings) for g in graphs)
        return evidence

    def close(self) -> None:
        """Gives the model its own forward back, frees the graphs and undoes the patches."""
        if self._forward is not None:
            self._last = self.status()
            self._forward.release()
            self._forward = None


def _two_runtimes() -> list[Problem]:
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


def _argument_problems(args: Any) -> list[Problem]:
    found = []
    if getattr(args, "torch_compile", False):
        found.append(
            Problem(
                "'ort' and torch.compile cannot be combined: both swap the model's forward pass",
                "TrainingArguments(torch_compile=True)",
                "set torch_compile=False, or use strategy='no_acc'",
            )
        )
    if getattr(args, "fsdp", None):
        found.append(
            Problem(
                "'ort' and FSDP cannot be combined: ORTModule needs whole parameters",
                f"TrainingArguments(fsdp={args.fsdp!r})",
                "use strategy='ds_ort', which shards the optimizer's state instead",
            )
        )
    if getattr(args, "activation_checkpointing", False) or getattr(
        args, "gradient_checkpointing", False
    ):
        found.append(_checkpointing_problem("TrainingArguments(gradient_checkpointing=True)"))
    if getattr(args, "neftune_noise_alpha", None):
        found.append(
            Problem(
                "NEFTune's noise would be baked into the training graph as a constant",
                f"TrainingArguments(neftune_noise_alpha={args.neftune_noise_alpha})",
                "leave neftune_noise_alpha out, or use strategy='no_acc'",
            )
        )
    return found


def _checkpointing_problem(where: str) -> Problem:
    return Problem(
        "gradient checkpointing is PyTorch's and would not reach ONNX Runtime's graph",
        where,
        "switch it off and lower the batch size, or use strategy='no_acc' or 'ds'",
    )


def _model_problems(model: nn.Module) -> list[Problem]:
    from torch.nn.modules.batchnorm import _NormBase

    found = []
    if any(getattr(m, "gradient_checkpointing", False) for m in model.modules()):
        found.append(
            _checkpointing_problem(f"{type(model).__name__}.gradient_checkpointing_enable()")
        )
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
