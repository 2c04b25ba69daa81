"""What breaks when a symbolic or a gradient of elements, axes or matrices is off.

Parts of the tables in `patch_needs.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from models.expressions import fused, numbers, same_as_pytorch
from need_entries import Entries
from torch.nn import functional

EXPRESSIONS_NEEDED = Entries()
needs = EXPRESSIONS_NEEDED.needs

IDS = [torch.tensor([[1, 2, 0]])]


@needs("scaled_dot_product_attention", (4, 4), [numbers(2, 3, 4)])
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    # Dropout needs its second output; at so small a rate nothing is dropped.
    return functional.scaled_dot_product_attention(x @ w, x, x, dropout_p=1e-12)


@needs("batch_norm", (4, 6))
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return functional.batch_norm(x @ w, torch.arange(6.0), torch.full((6,), 2.0), w[0], w[1])


@needs("where")
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.where(x[:, :, None] > 0, w[0], w[:, :1])


@needs("embedding", (5, 4), IDS)
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return functional.embedding(x, w, padding_idx=0)


@needs("ConstantChunk", (4, 8), [numbers(2, 4), numbers(3, 4)])
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    first, second, rest = (x @ w).chunk(3, -1)  # of 3, 3 and 2
    return first * second + functional.pad(rest, (0, 1))


@needs("detach")
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (x @ w).detach() * (x @ w)


@needs("diff")
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.diff(x @ w, dim=-1)


@needs("cumsum")
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (x > 0).cumsum(-1).float() @ w


@needs("argmax")
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return x @ w * (x @ w).argmax(-1, keepdim=True)


@needs("group_norm", (4,), [numbers(2, 4, 6)])
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return functional.group_norm(x, 2, w, w)


@needs("max")
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    y = x @ w
    return y.max(-1).values[:, None] * y + y.max()


@needs("min")
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    y = x @ w
    return y.min(-1).values[:, None] * y + y.min()


@needs("index_put", (4,), [numbers(3, 4)])
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    y[x[:, 0] < x[:, 0].max()] = w
    return y


@needs("instance_norm", (4,), [numbers(2, 4, 6)])
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return functional.instance_norm(x, weight=w, bias=w)


@needs("diagonal")
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (x.transpose(0, 1) @ (x @ w)).diagonal(0, 0, 1)


@needs("bitwise_or")
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return x @ w * ((x > 0).bitwise_or(x < -1)).float()[:, :1]


@needs("unfold")
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (x @ w).unfold(-1, 3, 2)


@needs("unflatten")
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (x @ w).unflatten(-1, (2, 3))


for _name in ("mish", "elu", "celu", "selu"):
    needs(_name)(lambda w, x, name=_name: getattr(functional, name)(3 * x @ w))


@needs("flip", (4, 6), [numbers(2, 4), numbers(3, 4)])
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (x @ w).flip(0, 1)


@needs("index_add")
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.zeros(2, 3).index_add(1, torch.tensor([0, 1, 1, 2, 0, 1]), x @ w)


# --- functions of elements, extremes, repetition, normalization ---


def needs_each(**expressions: Callable[..., Any]) -> None:
    """Enters expressions of a matrix product, by the symbolic that they need."""
    for name, expression in expressions.items():
        needs(name)(lambda w, x, f=expression: f(x @ w) + x @ w)


needs_each(
    pow=lambda y: 2.0**y,
    # At zero its gradient is a half.
    softplus=lambda y: functional.softplus(y, beta=2.0) + functional.softplus(y - y.detach()),
    hardsigmoid=functional.hardsigmoid,
    hardswish=functional.hardswish,
    expm1=torch.expm1,
    amax=lambda y: y.amax(-1, keepdim=True),
    amin=lambda y: y.amin((0, 1)),
    layer_norm=lambda y: functional.layer_norm(y, (6,)),
    rms_norm=lambda y: functional.rms_norm(y, (6,), torch.ones(6) * 2),
    linalg_norm=lambda y: torch.linalg.norm(y, dim=0),
    kron=lambda y: torch.kron(y, y[:1])[:, :6],
    eye=lambda y: y * torch.eye(*y.size(), out=torch.empty_like(y)),
)


@needs("repeat_interleave", (4, 6), [numbers(2, 4), numbers(3, 5)])
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    # Rotary positions: the exporter's own holds where the axis is of a size that it can tell.
    positions = torch.arange(x.shape[1])[None].expand(x.shape[0], -1)[:, None, :].float()
    scales = w[None, :, :1].expand(x.shape[0], -1, 1)
    return (scales @ positions).transpose(1, 2).repeat_interleave(2, dim=-1)


EXPRESSIONS_NEEDED["gelu"] = partial(
    fused, "FastGelu", True, lambda w, x: functional.gelu(x @ w, approximate="tanh")
)

# --- gradients -----------------------------------------------------------------------------------

# By the key of ORTModule's gradient registry.
GRADIENTS_NEEDED: dict[str, Callable[[], None]] = {
    "::CumSum": partial(same_as_pytorch, lambda w, x: (x @ w).cumsum(0), (4, 6), numbers(2, 4)),
    **{
        f"::{name.capitalize()}": partial(
            same_as_pytorch,
            lambda w, x, name=name: x @ w * getattr(torch, name)(x @ w),
            (4, 6),
            numbers(2, 4),
        )
        for name in ("sign", "floor", "ceil", "round")
    },
    # Right without it, and slow.
}
