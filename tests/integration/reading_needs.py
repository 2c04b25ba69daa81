"""What breaks without the patches that look at a model while it is traced."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from acpt_trainer.errors import GraphBuildError


class Inner(nn.Module):
    def __init__(self, act: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.act = act

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return self.act(y)


def refusal(act: Callable[[torch.Tensor], torch.Tensor]) -> str:
    """What is said of a model that does this deep inside."""
    from acpt_trainer.ort.forward import attach

    model = nn.Sequential(nn.Linear(3, 3), nn.Sequential(Inner(act)))
    attach(model)
    try:
        model(torch.ones(3, 3))
    except GraphBuildError as error:
        return str(error)
    raise AssertionError("trained without a word")


def refuses_a_branch_on_data() -> None:
    assert "bool()" in refusal(lambda y: y if y.sum() > 0 else -y)


def names_the_part_with_the_operator() -> None:
    said = refusal(lambda y: torch.linalg.svdvals(y).sum())
    assert "where: 1.0 (Inner)" in said, said


READING_NEEDED: dict[str, tuple[Callable[[], None], str]] = {
    "watched-reads": (refuses_a_branch_on_data, "trained without a word"),
    "named-nodes": (names_the_part_with_the_operator, "svdvals"),
}
