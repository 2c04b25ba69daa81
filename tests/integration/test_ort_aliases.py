"""Writes in place into memory that tensors share: as in PyTorch under `ort`, or refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from models.expressions import numbers, same_as_pytorch

from acpt_trainer.errors import GraphBuildError

Expression = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def assigned(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    y = torch.zeros_like(x @ w)
    y[:, :2] = (x @ w)[:, :2]
    return y * y


def added_to_a_slice(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    y = x @ w
    y[:, :2] += 2
    return y * y


def written_through_itself(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    y = (x @ w).view(-1)
    y.mul_(2)
    y += 1
    return y * y


def slice_used_alone(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    y = (x @ w)[0]
    y.add_(1)
    return y * y


def sizes_read(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    y = x @ w
    part = y[:, :2]
    part.mul_(3)
    return part.expand(y.shape[0], -1) * part


@pytest.mark.parametrize(
    "expression",
    [assigned, added_to_a_slice, written_through_itself, slice_used_alone, sizes_read],
)
def test_write_in_place_is_in_the_graph(expression: Expression) -> None:
    same_as_pytorch(expression, (4, 6), numbers(2, 4), numbers(3, 4))


def copied_into_slices(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    y = x.new_zeros(x.shape[0], 6)
    y[:, :2].copy_((x @ w)[:, :2])
    return y * 2


def slice_scaled(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    y = x @ w
    y[:, :2].mul_(3)
    return y * 2


def only_returned(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    y = x @ w
    y[0].fill_(1)
    return y


def view_read_after_its_base_was_written(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    y = x @ w
    view = y.view(-1)
    y.mul_(2)
    return view * 2


@pytest.mark.parametrize(
    "expression",
    [copied_into_slices, slice_scaled, only_returned, view_read_after_its_base_was_written],
)
def test_write_that_the_trace_loses_is_refused(expression: Expression) -> None:
    with pytest.raises(GraphBuildError, match="written into in place through another one"):
        same_as_pytorch(expression, (4, 6), numbers(2, 4))
