"""Tensors that a forward pass makes of Python's and NumPy's numbers are constants of the graph."""

from __future__ import annotations

import numpy
import torch
from parity import Net, train_both


def of_numbers(m: Net, x: torch.Tensor) -> torch.Tensor:
    scale = torch.tensor([1.0, 2.0, 3.0, 4.0])
    order = torch.as_tensor(numpy.array([2, 0, 3, 1]))
    shift = torch.from_numpy(numpy.linspace(0, 1, 4)).to(x.dtype)
    written = torch.tensor([0.0, 0.0])
    written[0] = 5
    y = torch.where(m.one(x) > 0, m.one(x), torch.tensor(float("-inf"))).exp()
    return (m.two(y * scale + shift)[:, order] * written.sum()).pow(2).mean()


def test_tensors_made_of_numbers_in_forward_are_as_in_pytorch() -> None:
    forward = train_both(Net(of_numbers))
    assert len(forward.graphs) == 1
