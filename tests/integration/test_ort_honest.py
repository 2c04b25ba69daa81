"""What a graph cannot hold is refused by name, guarded or followed: with the real engine."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from acpt_trainer import GraphBuildError
from acpt_trainer.ort.forward import attach


class Inner(nn.Module):
    """A part that does what it is given, deep inside a model."""

    def __init__(self, act: Any) -> None:
        super().__init__()
        self.act = act

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return self.act(y)


class Outer(nn.Module):
    def __init__(self, act: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(3, 3)
        self.blocks = nn.ModuleList([nn.Identity(), Inner(act)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.head(x)
        for block in self.blocks:
            y = block(y)
        return y.sum()


def x(rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows))


def branch(y: torch.Tensor) -> torch.Tensor:
    if y.sum() > 0:
        return y
    return -y


READS = {
    "bool": branch,
    "item": lambda y: y * y.max().item(),
    "float": lambda y: y * float(y.mean()),
    "int": lambda y: y[:, : int(y.argmax()) + 1],
    "tolist": lambda y: y * y.mean(0).tolist()[0],
    "numpy": lambda y: y * torch.from_numpy(y.detach().numpy()).sum(),
    "index": lambda y: y * [1.0, 2.0, 3.0][y[0].argmax()],
    "contains": lambda y: y if 0.25 in y else y * 2,
    "equal": lambda y: y if torch.equal(y, y.round()) else y * 2,
    "random": lambda y: y if torch.rand(()) < 0.5 else y * 2,
}


@pytest.mark.parametrize("how", READS)
def test_value_that_python_reads_from_data_is_refused(how: str) -> None:
    model = Outer(READS[how])
    attach(model)

    with pytest.raises(GraphBuildError) as caught:
        model(x())

    message = str(caught.value)
    assert "a random number of torch's" in message or "the values of tensors" in message
    assert "where: blocks.1 (Inner)" in message
    assert f"{__file__}:" in message
    assert "strategy='no_acc'" in message


def test_read_that_only_decides_to_raise_is_let_through() -> None:
    def checked(y: torch.Tensor) -> torch.Tensor:
        if y.isnan().any():
            raise ValueError("not a number")
        if y.shape[0] > 1 and y.abs().max() > 1e6:
            raise ValueError("too large")
        return y

    model = Outer(checked)
    forward = attach(model)
    model(x()).backward()

    assert len(forward.graphs[0].call.record.checks) == 2


def test_draw_of_which_one_outcome_is_possible_is_let_through() -> None:
    # A module dropout of 0, as PEFT has it, and a layer drop of 0, as transformers have it.
    expected = Outer(lambda y: y * 2)(x()).item()
    attach(model := Outer(lambda y: y * 2 if torch.rand(1) > 0.0 else y))
    assert model(x()).item() == pytest.approx(expected, rel=1e-5)
    attach(model := Outer(lambda y: y if torch.rand(1) < 0.0 else y * 2))
    assert model(x()).item() == pytest.approx(expected, rel=1e-5)


def test_branch_on_a_shape_is_followed_by_a_graph_each() -> None:
    model = Outer(lambda y: y * 10 if y.shape[0] > 2 else y)
    reference = copy.deepcopy(model)
    forward = attach(model)

    for rows in (2, 1, 3, 5, 2, 4):
        ours, theirs = model(x(rows)), reference(x(rows))
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    assert len(forward.graphs) == 2
    assert "bool() at blocks.1 (Inner)" in forward.re_exports[0]
    assert "was 0 and is 1" in forward.re_exports[0]


@pytest.mark.parametrize(
    "act",
    [
        lambda y: y / int(y.shape[0]),
        lambda y: y / len(y),
        lambda y: sum((row * i for i, row in enumerate(y)), torch.zeros(3)),
        lambda y: y * torch.tensor([y.shape[0], 1, 1]),
        lambda y: torch.stack(y.chunk(3, 0)),
    ],
    ids=["int", "len", "iter", "tensor", "chunk"],
)
def test_size_that_python_keeps_is_never_kept_for_another_size(act: Any) -> None:
    model = Outer(act)
    reference = copy.deepcopy(model)
    attach(model)

    for rows in (3, 6, 3):
        ours, theirs = model(x(rows)), reference(x(rows))
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
        ours.backward(), theirs.backward()
        torch.testing.assert_close(model.head.weight.grad, reference.head.weight.grad)


def test_each_of_several_branches_on_shapes_is_guarded() -> None:
    def act(y: torch.Tensor) -> torch.Tensor:
        y = y * 2 if y.shape[0] > 2 else y
        return y * 5 if y.shape[0] > 4 else y

    model = Outer(act)
    reference = copy.deepcopy(model)
    forward = attach(model)
    for rows in (1, 3, 5, 2):
        assert model(x(rows)).item() == pytest.approx(reference(x(rows)).item(), rel=1e-5)
    assert len(forward.graphs) == 3


def test_too_many_sizes_stop_training_with_the_line() -> None:
    model = Outer(lambda y: y / len(y))
    attach(model, max_graphs=2)
    model(x(1)), model(x(2))

    with pytest.raises(GraphBuildError, match=r"3th time(?s:.*)blocks\.1(?s:.*)was 2 and is 3"):
        model(x(3))


def test_size_that_the_graph_computes_needs_no_new_graph() -> None:
    model = Outer(lambda y: (y / y.shape[0])[: y.shape[0] - 1].reshape(-1, y.shape[1]))
    reference = copy.deepcopy(model)
    forward = attach(model)

    for rows in (2, 4, 3):
        assert model(x(rows)).item() == pytest.approx(reference(x(rows)).item(), rel=1e-5)
    assert len(forward.graphs) == 1


def test_failed_shape_inference_names_the_operator_and_the_module() -> None:
    # The engine's assertion has no text.
    model = Outer(lambda y: y.tile(2))
    attach(model)
    with pytest.raises(GraphBuildError, match=r"of the operator Expand\.\n +where: blocks\.1 \(I"):
        model(x())
