"""The losses of torch.nn.functional."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from .operators import Operator, of_product

IGNORED = -100


def flat(y: torch.Tensor) -> torch.Tensor:
    return y.flatten(0, 1)


def labels(y: torch.Tensor) -> torch.Tensor:
    """One of 8 classes a token, with some that are ignored."""
    classes = (flat(y)[:, 0] * 100).long() % 8
    return classes.masked_fill(flat(y)[:, 1] > 0.5, IGNORED)


def classes(y: torch.Tensor) -> torch.Tensor:
    return (flat(y)[:, 0] * 100).long() % 8


def none(y: torch.Tensor) -> torch.Tensor:
    return torch.full_like(classes(y), IGNORED)


def other(y: torch.Tensor) -> torch.Tensor:
    return y.flip(-1) * 2


def positives(y: torch.Tensor) -> torch.Tensor:
    return (y > 0).float()


def signs(y: torch.Tensor) -> torch.Tensor:
    return torch.where(y > 0, 1.0, -1.0)


CLASS_WEIGHTS = torch.arange(8.0)


def entropy(y: torch.Tensor, target: Any = labels, **options: Any) -> torch.Tensor:
    return F.cross_entropy(flat(y), target(y), **options)


def likelihood(y: torch.Tensor, target: Any = labels, **options: Any) -> torch.Tensor:
    return F.nll_loss(flat(y).log_softmax(-1), target(y), **options)


def reductions(name: str, loss: Any) -> dict[str, Any]:
    """A loss with each way to reduce it."""
    return {
        f"{name} ({reduction})": lambda y, reduction=reduction: loss(y, reduction=reduction)
        for reduction in ("mean", "sum", "none")
    }


OPERATORS: dict[str, Operator] = {
    name: of_product(function)
    for name, function in {
        **reductions("cross_entropy", entropy),
        **reductions("nll_loss", likelihood),
        "cross_entropy (weights)": lambda y: entropy(y, weight=CLASS_WEIGHTS),
        "cross_entropy (ignore_index)": lambda y: entropy(y, classes, ignore_index=3),
        "cross_entropy (smoothing)": lambda y: entropy(y, label_smoothing=0.1),
        "cross_entropy (smoothing, weights)": lambda y: entropy(
            y, weight=CLASS_WEIGHTS, label_smoothing=0.1
        ),
        "cross_entropy (probabilities)": lambda y: F.cross_entropy(
            flat(y), flat(y).detach().softmax(-1)
        ),
        "cross_entropy (probabilities with a gradient)": lambda y: F.cross_entropy(
            flat(y), flat(other(y)).softmax(-1)
        ),
        "cross_entropy (smoothing, none)": lambda y: entropy(
            y, label_smoothing=0.1, reduction="none"
        ),
        "cross_entropy (smoothing, all ignored)": lambda y: entropy(y, none, label_smoothing=0.1),
        "cross_entropy (smoothed probabilities, weights)": lambda y: F.cross_entropy(
            flat(y), flat(y).detach().softmax(-1), weight=CLASS_WEIGHTS, label_smoothing=0.1
        ),
        "cross_entropy (3-D, smoothing)": lambda y: F.cross_entropy(
            y.transpose(1, 2), labels(y).view(y.shape[:2]), CLASS_WEIGHTS, label_smoothing=0.1
        ),
        "cross_entropy (3-D)": lambda y: F.cross_entropy(
            y.transpose(1, 2), labels(y).view(y.shape[:2])
        ),
        "cross_entropy (3-D, none)": lambda y: F.cross_entropy(
            y.transpose(1, 2), labels(y).view(y.shape[:2]), reduction="none"
        ),
        "cross_entropy (all ignored)": lambda y: entropy(y, none),
        "cross_entropy (all ignored, sum)": lambda y: entropy(y, none, reduction="sum"),
        "cross_entropy (all ignored, none)": lambda y: entropy(y, none, reduction="none"),
        "cross_entropy (weight 0)": lambda y: entropy(
            y, lambda y: classes(y) * 0, weight=CLASS_WEIGHTS
        ),
        "cross_entropy (sum / number)": lambda y: (
            entropy(y, reduction="sum") / (labels(y) != IGNORED).sum()
        ),
        "cross_entropy (int32 labels)": lambda y: entropy(y, lambda y: labels(y).int().long()),
        "nll_loss (weights)": lambda y: likelihood(y, weight=CLASS_WEIGHTS),
        "nll_loss (all ignored)": lambda y: likelihood(y, none),
        "nll_loss (itself)": lambda y: torch._C._nn.nll_loss(flat(y), labels(y)),
        "nll_loss2d": lambda y: torch._C._nn.nll_loss2d(
            y.transpose(1, 2)[..., None].contiguous(), labels(y).view(*y.shape[:2], 1)
        ),
        "nll_loss (of scores)": lambda y: F.nll_loss(flat(y), labels(y)),
        "nll_loss (2-D)": lambda y: F.nll_loss(
            y.log_softmax(-1).transpose(1, 2), labels(y).view(y.shape[:2])
        ),
        **reductions("mse_loss", lambda y, **o: F.mse_loss(y, other(y), **o)),
        **reductions("l1_loss", lambda y, **o: F.l1_loss(y, other(y), **o)),
        **reductions("smooth_l1_loss", lambda y, **o: F.smooth_l1_loss(y, other(y), **o)),
        **reductions("huber_loss", lambda y, **o: F.huber_loss(y, other(y), **o)),
        "smooth_l1_loss (beta)": lambda y: F.smooth_l1_loss(y, other(y), beta=0.3),
        "smooth_l1_loss (beta 0)": lambda y: F.smooth_l1_loss(y, other(y), beta=0.0),
        "huber_loss (delta)": lambda y: F.huber_loss(y, other(y), delta=0.3),
        "mse_loss (broadcast)": lambda y: F.mse_loss(y, y[:, :1].expand_as(y)),
        **reductions(
            "binary_cross_entropy_with_logits",
            lambda y, **o: F.binary_cross_entropy_with_logits(y, positives(y), **o),
        ),
        "binary_cross_entropy_with_logits (weights)": lambda y: F.binary_cross_entropy_with_logits(
            y, positives(y), weight=CLASS_WEIGHTS, pos_weight=CLASS_WEIGHTS
        ),
        "binary_cross_entropy_with_logits, large": lambda y: F.binary_cross_entropy_with_logits(
            y * 50, positives(other(y))
        ),
        **reductions(
            "binary_cross_entropy",
            lambda y, **o: F.binary_cross_entropy(y.sigmoid(), positives(y), **o),
        ),
        "binary_cross_entropy (weights)": lambda y: F.binary_cross_entropy(
            y.sigmoid(), positives(y), weight=CLASS_WEIGHTS
        ),
        "binary_cross_entropy at 0 and 1": lambda y: F.binary_cross_entropy(
            (y * 200).sigmoid(), positives(other(y))
        ),
        "kl_div (batchmean)": lambda y: F.kl_div(
            y.log_softmax(-1), other(y).softmax(-1), reduction="batchmean"
        ),
        "kl_div (mean)": lambda y: F.kl_div(y.log_softmax(-1), other(y).softmax(-1)),
        "kl_div (none)": lambda y: F.kl_div(
            y.log_softmax(-1), other(y).softmax(-1), reduction="none"
        ),
        "kl_div (logarithms)": lambda y: F.kl_div(
            y.log_softmax(-1), other(y).log_softmax(-1), log_target=True
        ),
        "hinge_embedding_loss": lambda y: F.hinge_embedding_loss(y, signs(y)),
        "soft_margin_loss": lambda y: F.soft_margin_loss(y, signs(other(y))),
        "margin_ranking_loss": lambda y: F.margin_ranking_loss(y, other(y), signs(y), 0.2),
        "multi_margin_loss": lambda y: F.multi_margin_loss(flat(y), classes(y)),
        "multilabel_margin_loss": lambda y: F.multilabel_margin_loss(flat(y), flat(y).argsort(-1)),
        "multilabel_soft_margin_loss": lambda y: F.multilabel_soft_margin_loss(
            flat(y), positives(flat(y))
        ),
        "triplet_margin_loss": lambda y: F.triplet_margin_loss(y, other(y), y * 2),
        "cosine_embedding_loss": lambda y: F.cosine_embedding_loss(
            flat(y), flat(other(y)), signs(flat(y)[:, 0])
        ),
        "gaussian_nll_loss": lambda y: F.gaussian_nll_loss(y, other(y), y.abs() + 1),
        "poisson_nll_loss": lambda y: F.poisson_nll_loss(y, y.abs()),
        "poisson_nll_loss (full)": lambda y: F.poisson_nll_loss(y, y.detach().abs() * 3, full=True),
        "ctc_loss": lambda y: F.ctc_loss(
            y.transpose(0, 1).log_softmax(-1),
            torch.ones(y.shape[0], 2, dtype=torch.long),
            torch.full((y.shape[0],), y.shape[1], dtype=torch.long),
            torch.full((y.shape[0],), 1, dtype=torch.long),
        ),
    }.items()
}
REFUSED: dict[str, str] = {
    **dict.fromkeys(
        (
            "l1_loss (mean)",
            "l1_loss (sum)",
            "l1_loss (none)",
            "smooth_l1_loss (mean)",
            "smooth_l1_loss (sum)",
            "smooth_l1_loss (none)",
            "huber_loss (mean)",
            "huber_loss (sum)",
            "huber_loss (none)",
            "smooth_l1_loss (beta)",
            "smooth_l1_loss (beta 0)",
            "huber_loss (delta)",
            "binary_cross_entropy (mean)",
            "binary_cross_entropy (sum)",
            "binary_cross_entropy (none)",
            "binary_cross_entropy (weights)",
            "binary_cross_entropy at 0 and 1",
            "hinge_embedding_loss",
            "soft_margin_loss",
            "margin_ranking_loss",
            "multi_margin_loss",
            "multilabel_margin_loss",
            "triplet_margin_loss",
            "cosine_embedding_loss",
            "poisson_nll_loss",
            "poisson_nll_loss (full)",
        ),
        "no ONNX form for the operator",
    ),
    **dict.fromkeys(("gaussian_nll_loss",), "Python reads a value"),
}
