"""An accelerator that prepares and peels without an engine, and notes what it was given."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from acpt_trainer.integration import Binding

from .made_up_strategies import MadeUpStrategy, Wrapped


class Parallel:
    """What the made-up accelerator puts around a model, as DDP would."""

    def __init__(self, module: Any) -> None:
        self.module = module


class Accelerator:
    """An accelerator that prepares and peels without an engine, and notes what it was given."""

    def __init__(self, processes: int = 1, parallel: bool = True, **kwargs: Any) -> None:
        self.num_processes = processes
        self.parallel = parallel
        self.kwargs = kwargs
        self.device = torch.device("cpu")
        self.sync_gradients = True
        self.given: list[tuple[Any, ...]] = []
        self.done: list[str] = []
        self.clipped: list[tuple[Any, ...]] = []

    def prepare(self, *objects: Any, **kwargs: Any) -> Any:
        """Prepares objects."""
        self.given.append((*objects, kwargs))
        out = tuple(
            Parallel(o) if self.parallel and isinstance(o, (nn.Module, Wrapped)) else o
            for o in objects
        )
        return out if len(out) > 1 else out[0]

    def unwrap_model(self, model: Any, keep: bool = False) -> Any:
        while isinstance(model, Parallel):
            model = model.module
        return model

    def clip_grad_norm_(self, parameters: Any, max_norm: float, norm_type: int = 2) -> float:
        self.clipped.append((parameters, max_norm, norm_type))
        return max_norm

    def free_memory(self, *objects: Any) -> tuple[Any, ...]:
        return objects

    def save_state(self, output_dir: str) -> str:
        return output_dir

    def get_state_dict(self, model: Any) -> dict[str, torch.Tensor]:
        """Clones every tensor, as Accelerate does under DeepSpeed."""
        plain = model
        while not isinstance(plain, nn.Module):
            plain = plain.module if isinstance(plain, Parallel) else plain.inner
        return {name: value.clone() for name, value in plain.state_dict().items()}

    def backward(self, loss: Any, **options: Any) -> None:
        self.done.append(f"backward {loss} {options}")

    def end_training(self) -> None:
        self.done.append("end_training")


def bind(
    model: Any, accelerator: Accelerator | None = None, **options: Any
) -> tuple[Any, MadeUpStrategy, Binding]:
    """A made-up strategy bound to an accelerator, for a model."""
    accelerator = accelerator or Accelerator()
    strategy = MadeUpStrategy(**options)
    binding = Binding(accelerator, strategy, "fp32", owns=lambda o: o is model)  # type: ignore[arg-type]
    return accelerator, strategy, binding
