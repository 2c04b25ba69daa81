"""Losses of labels: out of bounds they stop, and the mean of none of them is not a number.

ONNX Runtime reads the number that lies past the row where a label is not below the number of
classes, and says that the mean of nothing is 0. PyTorch raises, and says that it is not a number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from acpt_trainer.ort.cuda import has_cuda
from acpt_trainer.ort.symbolics import values
from acpt_trainer.ort.symbolics.activations import softplus
from acpt_trainer.ort.symbolics.selection import detach, gather, where

_REDUCTIONS = ("none", "mean", "sum")


@dataclass(frozen=True)
class _Labels:
    """Labels that were looked at.

    Attributes:
        counts: Which of them are not ignored.
        label: The labels, 0 where ignored.
        weight: Of each, 0 where ignored.
        total: The sum of the weights.
    """

    counts: Any
    label: Any
    weight: Any
    total: Any


def _labels(g: Any, scores: Any, target: Any, weight: Any, ignored: Any) -> _Labels:
    """Labels that stop the step if one that counts is not a class."""
    import torch

    kind = values.scalar_type(scores)
    counts = g.op("Not", g.op("Equal", target, g.op("Cast", ignored, to_i=values.INT64)))
    label = g.op("Where", counts, target, values.constant(g, 0, torch.int64))
    label.setType(target.type())
    if values.given(weight):
        weights = detach(g, weight)
    else:
        weights = g.op("Expand", values.constant(g, 1, kind.dtype()), _classes(g, scores))
    found = g.op("Gather", weights, values.from_zero(g, label))
    found = g.op("Mul", found, g.op("Cast", counts, to_i=kind.onnx_type()))
    return _Labels(counts, label, found, g.op("ReduceSum", found, keepdims_i=0))


def _classes(g: Any, scores: Any) -> Any:
    import torch

    return g.op("Gather", g.op("Shape", scores), values.constant(g, [1], torch.int64))


def _reduced(g: Any, losses: Any, reduction: str, total: Any) -> Any:
    if reduction == "none":
        return losses
    out = g.op("ReduceSum", losses, keepdims_i=0)
    return g.op("Div", out, total) if reduction == "mean" else out


def nll_loss(
    g: Any, scores: Any, target: Any, weight: Any, reduction: Any, ignore_index: Any
) -> Any:
    """`nll_loss`, of whose operator ONNX Runtime has no gradient: the scores picked."""
    labels = _labels(g, scores, target, weight, ignore_index)
    way = _REDUCTIONS[values.helper()._maybe_get_const(reduction, "i")]
    return _picked(g, scores, labels, way)


def _picked(g: Any, scores: Any, labels: _Labels, reduction: str) -> Any:
    helper = values.helper()
    index = helper._unsqueeze_helper(g, labels.label, [1])
    index.setType(labels.label.type().with_sizes(None))
    picked = helper._squeeze_helper(g, gather(g, scores, 1, index), [1])
    losses = _where_counted(g, labels, g.op("Neg", g.op("Mul", picked, labels.weight)), scores)
    return _reduced(g, losses, reduction, labels.total)


def _where_counted(g: Any, labels: _Labels, losses: Any, scores: Any) -> Any:
    losses.setType(
        scores.type().with_sizes([None] * (values.helper()._get_tensor_rank(scores) - 1))
    )
    zero = values.constant(g, 0, values.scalar_type(scores).dtype())
    return where(g, labels.counts, losses, zero)


def cross_entropy(upstream: Callable[..., Any]) -> Callable[..., Any]:
    """`cross_entropy_loss` as ORTModule exports it, with its labels looked at.

    Made of `LogSoftmax` with smoothing, with probabilities for labels, which ORTModule refuses, and
    on a CPU, where the kernels of the whole are several times slower. Labels of scores in pure half
    precision, which no strategy trains on a CPU, are not looked at.
    """

    def symbolic(
        g: Any,
        scores: Any,
        target: Any,
        weight: Any,
        reduction: Any,
        ignore_index: Any,
        label_smoothing: Any,
    ) -> Any:
        helper = values.helper()
        way = _REDUCTIONS[helper._maybe_get_const(reduction, "i")]
        smoothing = helper._maybe_get_const(label_smoothing, "f") or 0.0
        if values.is_floating(target):
            return _of_probabilities(g, scores, target, weight, way, smoothing)
        if values.scalar_type(scores).name == "HALF" and not smoothing:
            # More readers of half precision, and ONNX Runtime returns the scores as floats.
            return upstream(g, scores, target, weight, reduction, ignore_index, label_smoothing)
        labels = _labels(g, scores, target, weight, ignore_index)
        if smoothing:
            return _smoothed(g, scores, weight, labels, way, smoothing)
        if not has_cuda():
            return _picked(g, _logarithms(g, scores), labels, way)
        loss = upstream(g, scores, target, weight, reduction, ignore_index, label_smoothing)
        if way == "mean":
            out = g.op("Mul", loss, g.op("Div", labels.total, labels.total))  # 1, or not a number
        else:
            zero = values.constant(g, 0, values.scalar_type(scores).dtype())
            out = g.op("Add", loss, g.op("Mul", labels.total, zero))
        out.setType(loss.type())
        return out

    return symbolic


def _logarithms(g: Any, scores: Any) -> Any:
    """Of the softmax over the classes."""
    out = g.op("LogSoftmax", scores, axis_i=1)
    out.setType(scores.type())
    return out


def _weighted(g: Any, scores: Any, weight: Any) -> Any:
    """Scores times the weight of their class."""
    if not values.given(weight):
        return scores
    axes = list(range(1, values.helper()._get_tensor_rank(scores) - 1))
    weight = detach(g, weight)
    return g.op("Mul", scores, values.helper()._unsqueeze_helper(g, weight, axes))


def _smoothed(
    g: Any, scores: Any, weight: Any, labels: _Labels, reduction: str, smoothing: float
) -> Any:
    dtype, onnx_type = values.scalar_type(scores).dtype(), values.scalar_type(scores).onnx_type()
    logarithms = _logarithms(g, scores)
    every = values.helper()._reducesum_helper(
        g, _weighted(g, logarithms, weight), axes_i=[1], keepdims_i=0
    )
    every = _where_counted(g, labels, g.op("Neg", every), scores)
    every = _reduced(g, every, reduction, labels.total)
    classes = g.op("Cast", _classes(g, scores), to_i=onnx_type)
    share = g.op("Squeeze", g.op("Div", values.constant(g, smoothing, dtype), classes))
    picked = _picked(g, logarithms, labels, reduction)
    return g.op(
        "Add",
        g.op("Mul", picked, values.constant(g, 1 - smoothing, dtype)),
        g.op("Mul", every, share),
    )


def _of_probabilities(
    g: Any, scores: Any, target: Any, weight: Any, reduction: str, smoothing: float
) -> Any:
    dtype, onnx_type = values.scalar_type(scores).dtype(), values.scalar_type(scores).onnx_type()
    if smoothing:
        classes = g.op("Cast", _classes(g, scores), to_i=onnx_type)
        target = g.op("Mul", target, values.constant(g, 1 - smoothing, dtype))
        target = g.op("Add", target, g.op("Div", values.constant(g, smoothing, dtype), classes))
    product = g.op("Mul", _weighted(g, _logarithms(g, scores), weight), target)
    losses = g.op("Neg", values.helper()._reducesum_helper(g, product, axes_i=[1], keepdims_i=0))
    number = g.op("Cast", g.op("Size", losses), to_i=onnx_type)
    return _reduced(g, losses, reduction, number)


def binary_cross_entropy_with_logits(
    g: Any, scores: Any, target: Any, weight: Any, positive: Any, reduction: Any
) -> Any:
    """`binary_cross_entropy_with_logits` from `softplus`: the logarithm of a sigmoid overflows."""
    dtype = values.scalar_type(scores).dtype()
    one = values.constant(g, 1, dtype)
    negative = g.op("Neg", scores)
    negative.setType(scores.type())
    losses = softplus(g, negative)
    if values.given(positive):
        more = g.op("Add", g.op("Mul", g.op("Sub", positive, one), target), one)
        losses = g.op("Mul", more, losses)
    losses = g.op("Add", g.op("Mul", g.op("Sub", one, target), scores), losses)
    if values.given(weight):
        losses = g.op("Mul", losses, weight)
    way = _REDUCTIONS[values.helper()._maybe_get_const(reduction, "i")]
    number = g.op("Cast", g.op("Size", losses), to_i=values.scalar_type(scores).onnx_type())
    return _reduced(g, losses, way, number)
