"""A model that is one expression, and the test that ONNX Runtime gives its value and gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn


class Expression(nn.Module):
    """A model that is one expression of a parameter and an input."""

    def __init__(self, expression: Callable[..., Any], *shape: int) -> None:
        super().__init__()
        self.expression = expression
        self.weight = nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.expression(self.weight, x)


def same_as_pytorch(
    expression: Callable[..., Any], shape: Sequence[int], *inputs: torch.Tensor
) -> Any:
    """Asserts that values and gradient are PyTorch's, and that ONNX Runtime computed them.

    Returns:
        The forward pass of ONNX Runtime.
    """
    from acpt_trainer.ort.forward import attach

    model = Expression(expression, *shape)
    reference = copy.deepcopy(model)
    forward = attach(model)
    for x in inputs:
        values = []
        for m in (model, reference):
            value = m(x.clone())
            # A gradient that differs by element: a plain sum hides errors.
            weights = torch.linspace(0.5, 1.5, value.numel()).view_as(value)
            (value * weights).sum().backward()
            values.append(value.detach())
        torch.testing.assert_close(*values, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert forward.calls == len(inputs)
    gradients = (model.weight.grad, reference.weight.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5, equal_nan=True)
    return forward


def fused(operator: str, there: bool, expression: Callable[..., Any]) -> None:
    """Asserts, beside the numbers, whether the training graph has a fused operator."""
    forward = same_as_pytorch(expression, (4, 6), numbers(3, 4))
    (graph,) = forward.graphs.values()
    assert (operator in graph.summary.fused_ops) is there, graph.summary.fused_ops


def numbers(*shape: int) -> torch.Tensor:
    """Normal numbers, the same each time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))
