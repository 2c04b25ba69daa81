"""What a model's parameters hold, and what flows into them, as plain tensors on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn

Tensors = dict[str, torch.Tensor | None]


class Gradients:
    """What flows into each parameter, whatever the strategy does with it afterwards."""

    def __init__(self, model: nn.Module) -> None:
        self.values: Tensors = {}
        self._own: set[str] = set()
        self._parameters = dict(trained(model))
        for name, parameter in self._parameters.items():
            parameter.register_hook(partial(self._note, name))

    def _note(self, name: str, gradient: torch.Tensor) -> None:
        self.values[name] = whole(gradient)
        self._own.add(name)

    def complete(self) -> None:
        """Adds those of parameters that are sharded, where the hook does not see them."""
        for name, parameter in self._parameters.items():
            if name not in self.values and parameter.grad is not None:
                self.values[name] = whole(parameter.grad)

    def average(self, mean: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Averages over the processes what each has of its own rows: the gradient of all rows.

        Args:
            mean: Gives the mean over the processes.
        """
        for name in self._parameters:  # in the same order in each process
            own = self.values.get(name)
            if name in self._own and own is not None:
                self.values[name] = mean(own).cpu()
        self._own.clear()


def trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The trained parameters by name, each once."""
    return ((n, p) for n, p in model.named_parameters() if p.requires_grad)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU of a tensor, put together where it is sharded."""
    whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole.detach().to("cpu", torch.float32, copy=True)


def weights(model: nn.Module) -> Tensors:
    """Copies of the parameters."""
    return {name: whole(parameter) for name, parameter in model.named_parameters()}
