"""What breaks when a symbolic is off that single operators of `tests/models/operators` need.

Parts of the table in `patch_needs.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from models.expressions import Expression, same_as_pytorch
from models.operators import operators
from torch.nn import functional

from acpt_trainer.errors import GraphBuildError

# By the symbolic's name: an operator that fails without it.
NEEDED_BY = {
    "cross_entropy_loss": "cross_entropy (all ignored)",
    "nll_loss": "nll_loss (itself)",
    "nll_loss2d": "nll_loss2d",
    "nll_loss_nd": "nll_loss (of scores)",
    "masked_fill": "masked_fill (tensor)",
    "to": "bool",
    "floor_divide": "integer floor_divide of negatives",
    "log_sigmoid": "logsigmoid, large",
    "hardtanh": "hardtanh at its bounds",
    "relu6": "relu6 at its bounds",
    "std": "std of equals",
    "std_mean": "std_mean of equals",
    "cosine_similarity": "cosine_similarity of zeros",
    "linalg_vector_norm": "norm (all)",
    "index_copy": "index_copy",
    "einsum": "einsum ...i,...i->...",
    "binary_cross_entropy_with_logits": "binary_cross_entropy_with_logits, large",
    "hstack": "hstack",
    "vstack": "vstack",
    "matmul": "matmul (vector)",
    "lstm": "LSTM (both ways)",
    "gru": "GRU (both ways)",
    "rnn_tanh": "RNN",
    "embedding_bag": "embedding_bag (mean, padding)",
    "tensor_split": "tensor_split (of a length)",
    "roll": "roll (beyond the size)",
}


def stops(operator: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], bad: int) -> None:
    """Asserts that an index that PyTorch does not take stops the step."""
    from acpt_trainer.ort.forward import attach

    model = Expression(operator, 8)
    try:
        model(torch.tensor([1, bad, 3]))
    except (IndexError, RuntimeError):
        pass
    else:
        raise AssertionError("PyTorch takes it")
    attach(model)
    model(torch.tensor([1, 2, 3]))
    try:
        model(torch.tensor([1, bad, 3]))
    except GraphBuildError as error:
        if "out of bounds" not in str(error):
            raise
        return
    raise AssertionError("it was taken for another index")


def refuses(name: str, reason: str) -> None:
    """Asserts that an operator is refused, where it would come out otherwise or be the end."""
    operator = operators()[name]
    try:
        same_as_pytorch(operator.expression, operator.shape, *operator.inputs)
    except GraphBuildError as error:
        if reason not in str(error):
            raise


OUT_OF_BOUNDS = {
    "gather": partial(stops, lambda w, x: w.gather(0, x), -1),
    "one_hot": partial(stops, lambda w, x: w * functional.one_hot(x, 8), 9),
}

OPERATORS_NEEDED: dict[str, Callable[[], None]] = {
    **OUT_OF_BOUNDS,
    **{
        symbolic: partial(
            same_as_pytorch,
            operators()[name].expression,
            operators()[name].shape,
            *operators()[name].inputs,
        )
        for symbolic, name in NEEDED_BY.items()
    },
    "cdist": partial(refuses, "cdist (1)", "power"),
    "pairwise_distance": partial(refuses, "pairwise_distance (1)", "power"),
    "linspace": partial(refuses, "linspace (of a length)", "a size"),
    "rnn_relu": partial(refuses, "RNN (relu)", "recurrence with ReLU"),
    "_pack_padded_sequence": partial(refuses, "packed sequence", "packed sequences"),
    "scatter_reduce": partial(refuses, "scatter_reduce (sum)", "crashes"),
}
