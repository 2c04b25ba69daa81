"""`no_acc`: PyTorch as it is, in mixed precision, with DDP over several processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from acpt_trainer.errors import Problem
from acpt_trainer.strategies.base import (
    AcceleratorStrategy,
    Layer,
    StrategyStatus,
    TrainingContext,
)

if TYPE_CHECKING:
    from torch import nn


_ENGINES = {"DEEPSPEED": "DeepSpeed", "FSDP": "FSDP", "MEGATRON_LM": "Megatron-LM"}
"""Kinds of distribution of Accelerate that are an engine of their own."""


class EagerStrategy(AcceleratorStrategy):
    """PyTorch as it is. Its evidence is what Accelerate made of the model."""

    name: ClassVar[str] = "no_acc"
    layer: ClassVar[Layer] = Layer.MODULE
    description: ClassVar[str] = "PyTorch as it is, in mixed precision"
    conflicts: ClassVar[dict[str, str]] = {"*": "no_acc means that nothing accelerates the step"}

    def __init__(self) -> None:
        self._precision: str | None = None
        self._evidence: dict[str, Any] | None = None

    def precisions(self, device: str) -> tuple[str, ...]:
        """All that autocast offers on the device."""
        return ("bf16", "fp16", "fp32") if device == "cuda" else ("bf16", "fp32")

    def problems(self, context: TrainingContext) -> list[Problem]:
        """Takes note of the precision, to compare it with what is prepared."""
        self._precision = context.precision
        return super().problems(context)

    def prepared(self, accelerator: Any, model: nn.Module) -> None:
        """Reads from the prepared model what will run the step."""
        asked = {"fp32": "no"}.get(self._precision or "fp32", self._precision)
        self._evidence = {
            "model": type(model).__name__,
            "distributed": str(accelerator.distributed_type).rsplit(".", 1)[-1],
            "autocast": None
            if accelerator.mixed_precision == "no"
            else accelerator.mixed_precision,
        }
        if self._precision is not None and accelerator.mixed_precision != asked:
            self._evidence["asked_precision"] = self._precision

    def status(self) -> StrategyStatus:
        """Engaged as soon as the model is prepared in the precision that was asked for."""
        if self._evidence is None:
            return StrategyStatus.pending("the model is not prepared for training yet")
        engine = _ENGINES.get(self._evidence["distributed"])
        if engine is not None:
            return StrategyStatus.fell_back(f"{engine} runs the step", self._evidence)
        if "asked_precision" in self._evidence:
            return StrategyStatus.fell_back(
                f"{self._evidence['asked_precision']} was asked for and autocast is "
                f"{self._evidence['autocast']}",
                self._evidence,
            )
        return StrategyStatus.engaged(self._evidence)
