"""Random numbers of a training graph: the distribution of torch's, and its random state."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from acpt_trainer import GraphBuildError
from acpt_trainer.ort.forward import attach


class Drawing(nn.Module):
    """A model that returns what it draws."""

    def __init__(self, draw: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.draw = draw
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * self.draw(x)


CHANCES = torch.tensor([0.1, 0.2, 0.3, 0.4])
DRAWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "rand": lambda x: torch.rand(x.shape[0], 8),
    "rand of a fixed shape": lambda x: torch.rand(64, 8),
    "rand_like": torch.rand_like,
    "randn": lambda x: torch.randn(x.shape[0], 8),
    "randn_like": torch.randn_like,
    "bernoulli of a tensor": lambda x: torch.bernoulli(torch.full_like(x, 0.3)),
    "bernoulli of a number": lambda x: torch.empty_like(x).bernoulli_(0.3),
    "uniform": lambda x: torch.empty_like(x).uniform_(-1, 3),
    "exponential": lambda x: torch.empty_like(x).exponential_(2.0),
    "randint": lambda x: torch.randint(-3, 5, (x.shape[0], 8)),
    "randint from zero": lambda x: torch.randint(5, (x.shape[0], 8)),
    "randint_like": lambda x: torch.randint_like(x, -3, 5),
    "randint_like from zero": lambda x: torch.randint_like(x, 5),
    "multinomial": lambda x: torch.multinomial(CHANCES.expand(x.shape[0], 4), 2).float(),
    "gumbel_softmax": lambda x: nn.functional.gumbel_softmax(x * 0),
}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_have_torchs_distribution_and_follow_its_state(name: str) -> None:
    model = Drawing(DRAWS[name]).train()
    attach(model)
    x = torch.zeros(64, 8)
    model(x)

    torch.manual_seed(0)
    state = torch.get_rng_state()
    ours = torch.stack([model(x).detach() for _ in range(20)])
    torch.set_rng_state(state)
    assert model(x).equal(ours[0]), "the same state gives the same numbers"
    assert not ours[0].equal(ours[1])
    theirs = torch.stack([DRAWS[name](x).float() for _ in range(20)])

    assert ours.shape == theirs.shape
    error = (theirs.std() / theirs.numel() ** 0.5).item()
    assert ours.mean().item() == pytest.approx(theirs.mean().item(), abs=6 * error)
    for share in (0.05, 0.25, 0.5, 0.75, 0.95):
        at = theirs.flatten().kthvalue(int(share * theirs.numel())).values
        ranks = [(values <= at).float().mean().item() for values in (ours, theirs)]
        assert ranks[0] == pytest.approx(ranks[1], abs=0.02)
    assert model(torch.zeros(3, 8)).shape == DRAWS[name](torch.zeros(3, 8)).shape


def test_draws_that_would_not_follow_the_state_are_refused() -> None:
    model = Drawing(lambda x: torch.normal(x, torch.ones_like(x))).train()
    attach(model)
    with pytest.raises(GraphBuildError, match="normal"):
        model(torch.zeros(2, 3))


@pytest.mark.parametrize("draw", [np.random.rand, np.random.normal, random.random])
def test_draws_outside_torch_are_refused_with_their_line(draw: Callable[[], float]) -> None:
    name = draw.__name__
    module = random if draw is random.random else np.random
    model = Drawing(lambda x: x * getattr(module, name)()).train()
    attach(model)
    with pytest.raises(GraphBuildError, match=rf"{name}.*(?s:.*)test_ort_randomness.py:\d+"):
        model(torch.zeros(2, 3))
    assert getattr(module, name) == draw
