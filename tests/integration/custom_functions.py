"""Custom autograd functions of many kinds, and a model to train them in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from no_compiler import Scaled
from torch import nn
from torch.autograd import Function


class Rounded(Function):
    """Straight through: rounding has no gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.round(x * 4) / 4

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad


class Reversed(Function):
    """Gradient reversal; what it returns is its input, and it has an argument that is a number."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return -ctx.scale * grad, None


class Split(Function):
    """Two inputs, two outputs, numbers, text, a tuple and None."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, w: torch.Tensor, power: int, kind: str, sizes: Any, none: Any
    ) -> Any:
        assert (kind, sizes, none) == ("kind", (1, 2), None)
        ctx.save_for_backward(x, w)
        ctx.power = power
        return x * w, x + w

    @staticmethod
    def backward(ctx: Any, first: torch.Tensor, second: torch.Tensor) -> Any:
        x, w = ctx.saved_tensors
        return ctx.power * first * w + second, first * x - second, None, None, None, None


class Doubled(Function):
    """Writes its input."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return 0.5 * grad


class Marked(Function):
    """An output without a gradient, and a context that is set up apart."""

    @staticmethod
    def forward(x: torch.Tensor) -> Any:
        return x * 2, (x > 0).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, unused: torch.Tensor) -> torch.Tensor:
        return 7 * grad


class Turned(Function):
    """Its output and its gradient are views whose numbers do not stand in order."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.t()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad.t()


def scaled_by(factor: float) -> type[Function]:
    """Functions that share one name."""

    class Made(Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 1

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return factor * grad

    return Made


HALF, THRICE = scaled_by(0.5), scaled_by(3.0)


def written(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    h = h + 0
    return Doubled.apply(h) * h


def marked(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    value, positive = Marked.apply(h)
    return value * positive


def in_two(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    product, total = Split.apply(h, w, 2, "kind", (1, 2), None)
    return product * total


CASES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "straight_through": lambda h, w: Rounded.apply(h),
    "reversal": lambda h, w: Reversed.apply(h, 0.5),
    "scaled": lambda h, w: Scaled.apply(h),
    "two_outputs": in_two,
    "one_output_used": lambda h, w: Split.apply(h, w, 2, "kind", (1, 2), None)[1],
    "in_place": written,
    "not_differentiable": marked,
    "same_name": lambda h, w: HALF.apply(h) + THRICE.apply(h * w),
    "transposed": lambda h, w: Turned.apply(Turned.apply(h) * 2),
    "several": lambda h, w: Scaled.apply(Reversed.apply(Scaled.apply(Rounded.apply(h)), 2.0)),
}


class Model(nn.Module):
    def __init__(self, case: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.case = case
        self.below, self.above = nn.Linear(4, 4), nn.Linear(4, 4)
        self.weight = nn.Parameter(torch.randn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.above(self.case(self.below(x), self.weight)).pow(2).mean()


def model_for(case: Callable[..., torch.Tensor]) -> Model:
    torch.manual_seed(0)
    return Model(case).train()
