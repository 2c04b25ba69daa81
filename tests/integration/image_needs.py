"""What breaks when a symbolic of images and signals is off: sizes, pools, convolution.

Parts of the table in `patch_needs.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from models.expressions import numbers, same_as_pytorch
from need_entries import Entries
from torch.nn import functional

IMAGES_NEEDED = Entries()
needs = IMAGES_NEEDED.needs

IMAGE = [numbers(2, 4, 6, 6)]

# The exporter's own form of these has no gradient: they hold on what is not trained.


@needs("upsample_nearest1d", (1,), [numbers(2, 4, 6)])
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=2) * w


@needs("upsample_nearest2d", (1,), IMAGE)
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=2) * w


@needs("upsample_nearest3d", (1,), [numbers(1, 2, 4, 6, 6)])
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=2) * w


@needs("upsample_bicubic2d", (1,), IMAGE)
def _(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bicubic") * w


def pools(name: str, pool: Callable[..., Any], *shape: int) -> None:
    needs(name, (6, 6), [numbers(*shape), numbers(*shape)[:1]])(lambda w, x: pool(x @ w))


pools("avg_pool1d", lambda x: functional.avg_pool1d(x, 3, 2, 1), 2, 4, 6)
pools("avg_pool2d", lambda x: functional.avg_pool2d(x, 2), 2, 4, 6, 6)
pools("avg_pool3d", lambda x: functional.avg_pool3d(x, 2), 2, 4, 6, 6, 6)
pools("max_pool1d", lambda x: functional.max_pool1d(x, 3, 2, 1), 2, 4, 6)
pools("max_pool2d", lambda x: functional.max_pool2d(x, 2), 2, 4, 6, 6)
pools("max_pool3d", lambda x: functional.max_pool3d(x, 2), 2, 4, 6, 6, 6)


def pools_to(kind: str, shape: tuple[int, ...], size: Any) -> None:
    """Of axes whose sizes are known: those of the weight."""
    name = f"adaptive_{kind}_pool{len(shape)}d"
    pool = getattr(functional, name)
    needs(name, shape, [numbers(2, 4), numbers(3, 5)])(
        lambda w, x: pool(torch.tanh(x.view(*x.shape, *[1] * w.dim()) * w), size)
    )


for _kind in ("avg", "max"):
    pools_to(_kind, (6,), 3)
    pools_to(_kind, (2, 3), (2, 1))
    pools_to(_kind, (1, 2, 3), (1, 2, 1))


def with_indices(pool: Callable[..., Any]) -> Callable[..., Any]:
    def pooled(x: torch.Tensor) -> torch.Tensor:
        values, indices = pool(x)
        return values * (1 + indices)

    return pooled


pools(
    "max_pool1d_with_indices",
    with_indices(lambda x: functional.max_pool1d(x, 3, 2, 1, return_indices=True)),
    2, 4, 6,
)  # fmt: skip
pools(
    "max_pool2d_with_indices",
    with_indices(lambda x: functional.max_pool2d(x, 2, return_indices=True)),
    2, 4, 6, 6,
)  # fmt: skip
pools(
    "max_pool3d_with_indices",
    with_indices(lambda x: functional.max_pool3d(x, 2, return_indices=True)),
    2, 4, 6, 6, 6,
)  # fmt: skip


def convolves_within_its_memory(padding: int | str) -> None:
    """ONNX Runtime's memory arena hides that its gradient writes out of bounds: without it."""
    from onnxruntime.training.ortmodule._graph_execution_manager import GraphExecutionManager

    session_config = GraphExecutionManager._get_session_config

    def without_arena(self: Any) -> Any:
        options, *rest = session_config(self)
        options.enable_cpu_mem_arena = False
        return options, *rest

    GraphExecutionManager._get_session_config = without_arena
    same_as_pytorch(
        lambda w, x: functional.conv1d(x * w[0, 0, 0], w, padding=padding, groups=8),
        (8, 1, 3),
        numbers(2, 8, 10),
    )


IMAGES_NEEDED["_convolution"] = partial(convolves_within_its_memory, 1)
IMAGES_NEEDED["_convolution_mode"] = partial(convolves_within_its_memory, "same")
