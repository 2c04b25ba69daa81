"""What breaks in model types, and in random numbers, when a patch or symbolic is off.

Parts of the tables in `patch_needs.py`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import nn
from torch.nn import functional

from acpt_trainer.errors import GraphBuildError


def trains_in_three_shapes(name: str) -> None:
    from models.checks import run
    from models.zoo import entries

    for row in run(entries()[name], "eager", ["exact"]):
        assert row.status == "holds", f"{row.status}: {row.reason}"


def needs_no_custom_function() -> None:
    from models.checks import run
    from models.zoo import entries

    for row in run(entries()["bloom"], "eager", ["exact"]):
        assert row.status == "holds", f"{row.status}: {row.reason}"
        assert not row.python_ops, "GeLUFunction runs in Python"


def masks_anew_at_each_step() -> None:
    """SpecAugment, where the loss changes with the mask alone, in two sizes."""
    from models.checks import losses
    from models.pair import Pair
    from models.zoo import entries

    entry = entries()["wav2vec2 (classification)"]
    masked = {**entry.no_dropout, "apply_spec_augment": True}
    pair = Pair(replace(entry, no_dropout=masked), "eager", False)
    for rows, columns in ((2, 12), (3, 16)):
        drawn = losses(pair, pair.ours, entry.batch(rows, columns, "right"), 12)
        assert len(set(drawn.tolist())) > 6, "the mask is the same at each step"


def refuses(draw: Callable[[torch.Tensor], torch.Tensor]) -> None:
    try:
        follows_torchs_state(draw)
    except GraphBuildError:
        return
    raise AssertionError("it was exported")


# By the patch's name: what holds with it, and what is said without it.
MODELS_NEEDED: dict[str, tuple[Callable[[], None], str]] = {
    "no-density": (partial(trains_in_three_shapes, "distilbert"), "'NoneType' object is not"),
    "deferred-ctc": (partial(trains_in_three_shapes, "wav2vec2 (CTC)"), "ctc_loss"),
    "traced-len": (partial(trains_in_three_shapes, "clip"), "graphs for three shapes"),
    "traced-span": (partial(trains_in_three_shapes, "deberta"), "graphs for three shapes"),
    "bloom-gelu": (needs_no_custom_function, "GeLUFunction"),
    "no-foreign-draws": (
        partial(refuses, lambda x: x * random.random()),
        "the same numbers at each step",
    ),
    "traced-spec-augment": (masks_anew_at_each_step, "numpy.random.rand"),
}


class Drawing(nn.Module):
    """A model that returns what it draws."""

    def __init__(self, draw: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.draw = draw
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * self.draw(x)


def follows_torchs_state(draw: Callable[[torch.Tensor], torch.Tensor]) -> None:
    from acpt_trainer.ort.forward import attach

    model = Drawing(draw)
    attach(model)
    x = torch.full((8, 4), 0.5)
    model(x)
    state = torch.get_rng_state()
    first, second = model(x), model(x)
    torch.set_rng_state(state)
    assert not first.equal(second), "the same numbers at each step"
    assert model(x).equal(first), "other numbers from the same state"


# By the symbolic's name.
DRAWS_NEEDED: dict[str, Callable[[], None]] = {
    name: partial(follows_torchs_state, draw)
    for name, draw in {
        "rand": lambda x: torch.rand(x.shape),
        "rand_like": torch.rand_like,
        "randn": lambda x: torch.randn(x.shape),
        "randn_like": torch.randn_like,
        "randint": lambda x: torch.randint(0, 9, x.shape),
        "randint_like": lambda x: torch.randint_like(x, 0, 9),
        "bernoulli": torch.bernoulli,
        "uniform": lambda x: torch.empty_like(x).uniform_(),
        "exponential": lambda x: torch.empty_like(x).exponential_(),
        "multinomial": lambda x: x.multinomial(1),
    }.items()
}
DRAWS_NEEDED |= {
    "normal": partial(refuses, lambda x: torch.normal(x, x)),
    "rrelu": partial(refuses, lambda x: functional.rrelu(-x, training=True)),
}
