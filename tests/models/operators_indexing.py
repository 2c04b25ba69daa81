"""Operators that pick elements and put them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from .operators import Operator, of_product, of_weight

PICKED = torch.tensor([0, 2, 2])
DISTINCT = torch.tensor([2, 0])
IDS = (torch.tensor([[0, 1], [2, 3]]), torch.tensor([[4, 1, 1]]))


def zeros(y: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(y)


def order(y: torch.Tensor) -> torch.Tensor:
    return y.argsort(-1)


def put(into: Callable[[torch.Tensor], torch.Tensor], place: Any, of: Any) -> Operator:
    """Assigns to a place of a tensor made of `y`; place and value may be functions of it."""

    def assign(y: torch.Tensor) -> torch.Tensor:
        target = into(y)
        where = place(y) if callable(place) else place
        target[where] = of(y) if callable(of) else of
        return target + y.mean()

    return of_product(assign)


def doubled(y: torch.Tensor) -> torch.Tensor:
    return y * 2


def of_bags(**options: Any) -> Operator:
    """Bags of one long row, of which the third is empty.

    A last offset is where the row ends: of indices behind it PyTorch's gradient is whatever lies in
    memory.
    """

    def bags(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        last = [x.shape[0]] if options.get("include_last_offset") else []
        return F.embedding_bag(x, w, torch.tensor([0, 2, 3, 3, *last]), **options)

    return of_weight(bags, (5, 4), torch.tensor([1, 4, 2, 1]), torch.tensor([4, 0, 1, 4, 1, 3]))


EVERY = slice(None)

OPERATORS: dict[str, Operator] = {
    **{
        name: of_product(function)
        for name, function in {
            "gather": lambda y: y.gather(-1, order(y)),
            "gather (axis 1)": lambda y: y.gather(1, order(y)[:, :2] % 3),
            "gather (repeated)": lambda y: y.gather(-1, order(y) // 2),
            "take_along_dim": lambda y: torch.take_along_dim(y, order(y), -1),
            "take": lambda y: y.take(PICKED),
            "scatter": lambda y: zeros(y).scatter(-1, order(y)[..., :4], y[..., :4]),
            "scatter (number)": lambda y: y.scatter(-1, order(y)[..., :4], 0.5),
            "scatter (add)": lambda y: y.scatter(-1, order(y) // 2, y, reduce="add"),
            "scatter (multiply)": lambda y: y.scatter(-1, order(y) // 2, y, reduce="multiply"),
            "scatter_add": lambda y: zeros(y).scatter_add(-1, order(y) // 2, y),
            "scatter_add (axis 1)": lambda y: zeros(y).scatter_add(1, order(y) % 3, y),
            "scatter_add_": lambda y: zeros(y).scatter_add_(-1, order(y) // 2, y),
            "scatter_reduce (sum)": lambda y: y.scatter_reduce(-1, order(y) // 2, y, "sum"),
            "scatter_reduce (mean)": lambda y: y.scatter_reduce(-1, order(y) // 2, y, "mean"),
            "scatter_reduce (amax)": lambda y: y.scatter_reduce(-1, order(y) // 2, y, "amax"),
            "scatter_reduce (prod)": lambda y: y.scatter_reduce(-1, order(y) // 2, y, "prod"),
            "scatter_reduce (without itself)": lambda y: y.scatter_reduce(
                -1, order(y) // 2, y, "sum", include_self=False
            ),
            "index_select": lambda y: y.index_select(1, PICKED),
            "index_add": lambda y: zeros(y).index_add(1, PICKED, y[:, :3]),
            "index_add (alpha)": lambda y: zeros(y).index_add(1, PICKED, y[:, :3], alpha=2),
            "index_copy": lambda y: (y * 2).index_copy(1, DISTINCT, y[:, :2]),
            "index_fill": lambda y: y.index_fill(1, DISTINCT, 0.5),
            "index_put": lambda y: zeros(y).index_put((DISTINCT[:, None], DISTINCT), y[0, 0, 0]),
            "index_put (add)": lambda y: zeros(y).index_put(
                (torch.tensor([0, 0]), PICKED[:2]), y[0, :2], accumulate=True
            ),
            "index_reduce": lambda y: y.index_reduce(1, PICKED, y[:, :3], "mean"),
            "put": lambda y: zeros(y).put(PICKED[:2], y.flatten()[:2]),
            "x[indices]": lambda y: y[:, PICKED],
            "x[indices, number]": lambda y: y[torch.arange(y.shape[0]), -1],
            "x[indices, indices]": lambda y: y[DISTINCT[:, None] // 2, PICKED],
            "x[:, indices, indices]": lambda y: y[:, DISTINCT, PICKED[:2]],
            "x[indices, :, indices]": lambda y: y[DISTINCT // 2, :, PICKED[:2]],
            "x[negative indices]": lambda y: y[:, torch.tensor([-1, -2])],
            "x[mask].sum": lambda y: y[y.detach() > 0].sum() * y,
            "x[row mask]": lambda y: y[(y[..., 0] > -9)].sum(0),
            "x[last of each row]": lambda y: y[
                torch.arange(y.shape[0]), (y[..., 0] > -9).sum(-1) - 1
            ],
            "masked_select": lambda y: y.masked_select(y.detach() > 0).sum() * y,
            "masked_scatter": lambda y: zeros(y).masked_scatter(y.detach() > 0, y),
            "nonzero": lambda y: y * torch.nonzero(y.detach() > 0).shape[0],
            "nonzero (values)": lambda y: y * torch.nonzero(y.detach() > 0).float().mean(),
            "argwhere": lambda y: y * torch.argwhere(y.detach() > 0).float().mean(),
            "bucketize": lambda y: y * torch.bucketize(y.detach(), torch.tensor([-1.0, 0.0, 1.0])),
            "searchsorted": lambda y: (
                y * torch.searchsorted(torch.tensor([-1.0, 0.0, 1.0]), y.detach())
            ),
            "isin": lambda y: y * torch.isin((y * 2).long(), torch.tensor([1, 2])),
            "one_hot": lambda y: y * F.one_hot(order(y), 8).float()[..., 0],
            "one_hot (of a size)": lambda y: y * F.one_hot(order(y)[..., 0], 8),
            "tril": lambda y: y.tril(),
            "tril (below)": lambda y: y.tril(-1),
            "triu": lambda y: y.triu(1),
            "triu (of a mask)": lambda y: y * torch.ones(8, 8).bool().triu(1)[: y.shape[1]],
            "causal mask of the length": lambda y: (y @ y.transpose(1, 2)).masked_fill(
                torch.ones(y.shape[1], y.shape[1]).triu(1).bool(), 0.0
            ),
            "diagonal": lambda y: y.diagonal(0, -2, -1),
            "diagonal (above)": lambda y: (y.transpose(1, 2) @ y).diagonal(2, -2, -1),
            "diagonal (below)": lambda y: y.diagonal(-1, 1, 2),
            "diag_embed": torch.diag_embed,
            "diag (of a vector)": lambda y: torch.diag(y[0, 0]),
            "trace": lambda y: y[0, :3, :3].trace() * y,
            "select_scatter": lambda y: y.select_scatter(y[:, 0] * 2, 1, 1),
            "slice_scatter": lambda y: y.slice_scatter(y[:, :1] * 2, 1, 1, 2),
        }.items()
    },
    "x[:, 1:] = y": put(zeros, (EVERY, slice(1, None)), lambda y: y[:, :-1]),
    "x[:, 0] = y": put(doubled, (EVERY, 0), lambda y: y[:, 1]),
    "x[:, 0] = number": put(doubled, (EVERY, 0), 0.5),
    "x[..., ::2] = y": put(doubled, (..., slice(None, None, 2)), lambda y: y[..., :4]),
    "x[:, -1, 2:4] = y": put(doubled, (EVERY, -1, slice(2, 4)), lambda y: y[:, 0, :2]),
    "x[mask] = number": put(doubled, lambda y: y > 0, 0.5),
    "x[row mask] = vector": put(doubled, lambda y: y[..., 0] > 0, lambda y: y[0, 0]),
    "x[mask] = as many": put(doubled, lambda y: y > 0, lambda y: y[y > 0]),
    "x[indices] = y": put(doubled, (EVERY, DISTINCT), lambda y: y[:, :2]),
    "x[indices, indices] = y": put(doubled, (EVERY, DISTINCT, DISTINCT), lambda y: y[:, 0, :2]),
    "x[rows, lengths] = number": put(
        doubled, lambda y: (torch.arange(y.shape[0]), (y[..., 0] > -9).sum(-1) - 1), 0.5
    ),
    "embedding": of_weight(lambda w, x: F.embedding(x, w), (5, 4), *IDS),
    "embedding (padding)": of_weight(lambda w, x: F.embedding(x, w, padding_idx=1), (5, 4), *IDS),
    "embedding (negative padding)": of_weight(
        lambda w, x: F.embedding(x, w, padding_idx=-1), (5, 4), *IDS
    ),
    "embedding (max_norm)": of_weight(lambda w, x: F.embedding(x, w, max_norm=1.0), (5, 4), *IDS),
    "embedding (scale_grad_by_freq)": of_weight(
        lambda w, x: F.embedding(x, w, scale_grad_by_freq=True), (5, 4), *IDS
    ),
    **{
        f"embedding_bag ({mode})": of_weight(
            lambda w, x, mode=mode: F.embedding_bag(x, w, mode=mode), (5, 4), *IDS
        )
        for mode in ("sum", "mean", "max")
    },
    "embedding_bag (offsets, one bag empty)": of_bags(),
    "embedding_bag (with the last offset)": of_bags(include_last_offset=True, mode="sum"),
    "embedding_bag (mean, padding)": of_bags(padding_idx=1),
    "embedding_bag (sum, padding)": of_bags(padding_idx=-1, mode="sum"),
    "embedding_bag (weights)": of_weight(
        lambda w, x: F.embedding_bag(x, w, mode="sum", per_sample_weights=w[x, 0] * 2), (5, 4), *IDS
    ),
    "embedding_bag (scale_grad_by_freq)": of_bags(scale_grad_by_freq=True),
    "one_hot @ weight": of_weight(lambda w, x: F.one_hot(x, 5).float() @ w, (5, 4), *IDS),
    "weight[ids]": of_weight(lambda w, x: w[x], (5, 4), *IDS),
}
REFUSED: dict[str, str] = {
    **dict.fromkeys(
        (
            "take_along_dim",
            "index_reduce",
            "put",
            "argwhere",
            "searchsorted",
            "isin",
            "diag_embed",
            "diag (of a vector)",
            "trace",
            "select_scatter",
            "slice_scatter",
        ),
        "no ONNX form for the operator",
    ),
    **dict.fromkeys(
        (
            "scatter (add)",
            "scatter (multiply)",
        ),
        "AssertionError: A mismatch between the number of argumen",
    ),
    **dict.fromkeys(
        (
            "scatter_reduce (sum)",
            "scatter_reduce (mean)",
            "scatter_reduce (amax)",
            "scatter_reduce (prod)",
            "scatter_reduce (without itself)",
        ),
        "the exporter cannot export the operator scatter_reduce:",
    ),
    **dict.fromkeys(
        ("index_add (alpha)",), "the exporter cannot export the operator index_add: alpha"
    ),
    **dict.fromkeys(
        ("index_fill",),
        "cannot infer the shapes of the operator Expand",
    ),
    **dict.fromkeys(("index_put",), "IndexError: index 2 is out of bounds for dimension 0 wit"),
    **dict.fromkeys(
        ("embedding (max_norm)",), "the forward pass of Expression changes its own tensor 'w"
    ),
    **dict.fromkeys(
        ("embedding (scale_grad_by_freq)",),
        "the exporter cannot export the operator embedding: scale",
    ),
    "embedding_bag (max)": "mode='max'; use nn.Embedding and",
    "embedding_bag (scale_grad_by_freq)": "the operator embedding_bag: scale_grad_by_freq=True",
}
