"""Embedding, and bags of it: `Gather`, whose gradient ONNX Runtime has, and sums."""

from __future__ import annotations

from typing import Any

from acpt_trainer.ort.symbolics import selection, values


def embedding(
    g: Any, weight: Any, indices: Any, padding_idx: Any, scale_grad_by_freq: Any, sparse: Any
) -> Any:
    """Embedding as `Gather`, whose gradient ONNX Runtime has, instead of an ATen node.

    PyTorch gives the padding row no gradient: where the index is the padding index, the value is
    detached.
    """
    import torch

    helper = values.helper()
    if helper._maybe_get_const(scale_grad_by_freq, "b"):
        return helper._unimplemented("embedding", "scale_grad_by_freq=True")
    if helper._maybe_get_const(sparse, "b"):
        return helper._unimplemented("embedding", "sparse=True")
    rows = g.op("Gather", weight, values.from_zero(g, indices))
    padding = helper._maybe_get_const(padding_idx, "i")
    if not isinstance(padding, int) or padding < 0:
        return rows
    is_padding = g.op(
        "Unsqueeze",
        g.op("Equal", indices, values.constant(g, padding, torch.int64)),
        values.constant(g, [-1], torch.int64),
    )
    out = g.op("Where", is_padding, selection.detach(g, rows), rows)
    out.setType(rows.type())
    return out


_SUM, _MEAN = 0, 1

MAX_OF_BAG = "mode='max'; use nn.Embedding and the maximum of its rows, .max(1).values"


def embedding_bag(
    g: Any,
    weight: Any,
    indices: Any,
    offsets: Any,
    scale_grad_by_freq: Any,
    mode: Any,
    sparse: Any,
    per_sample_weights: Any = None,
    include_last_offset: Any = False,
    padding_idx: Any = None,
) -> tuple[Any, ...]:
    """Sums or means of rows, scattered into their bags; the exporter's loop has no gradient.

    PyTorch gives rows of equal length as one long row and where each bag begins, too. A padding row
    neither counts nor gets a gradient.
    """
    import torch

    helper = values.helper()
    kind = helper._maybe_get_const(mode, "i")
    refused = [
        why
        for why, there in (
            ("scale_grad_by_freq=True", helper._maybe_get_const(scale_grad_by_freq, "b")),
            ("sparse=True", helper._maybe_get_const(sparse, "b")),
            (MAX_OF_BAG, kind not in (_SUM, _MEAN)),
        )
        if there
    ]
    if refused:
        unknown: tuple[Any, ...] = helper._unimplemented("embedding_bag", refused[0])
        return unknown
    indices = g.op("Cast", indices, to_i=values.INT64)
    places, count = _places(g, indices, offsets)
    rows = g.op("Gather", weight, values.from_zero(g, indices))
    if values.given(per_sample_weights):
        rows = g.op("Mul", rows, helper._unsqueeze_helper(g, per_sample_weights, [1]))
    one, zero = (values.constant(g, v, torch.float) for v in (1.0, 0.0))
    counted = g.op("Expand", one, g.op("Shape", indices))
    if values.given(padding_idx):
        left_out = g.op("Equal", indices, _row(g, weight, padding_idx))
        rows = g.op("Where", helper._unsqueeze_helper(g, left_out, [1]), zero, rows)
        counted = g.op("Where", left_out, zero, counted)
    out = _summed(g, rows, places, count)
    if kind == _MEAN:
        numbers = _summed(g, helper._unsqueeze_helper(g, counted, [1]), places, count)
        out = g.op("Div", out, g.op("Max", numbers, one))
    if helper._maybe_get_const(include_last_offset, "b"):  # of what comes behind it, no bag is made
        out = helper._slice_helper(g, out, axes=[0], starts=[0], ends=[-1])
    return out, None, None, None


def _row(g: Any, weight: Any, number: Any) -> Any:
    """The number of a row, which may be counted from the last."""
    import torch

    rows = g.op("Gather", g.op("Shape", weight), values.constant(g, 0, torch.int64))
    return g.op("Mod", number, rows)


def _places(g: Any, indices: Any, offsets: Any) -> tuple[Any, Any]:
    """The number of each index's bag, and how many bags there are.

    The number is how many bags have begun, less one: of bags that begin at one place all but the
    last are empty.
    """
    import torch

    helper = values.helper()
    begins = g.op("Cast", offsets, to_i=values.INT64)
    zero, one = (values.constant(g, v, torch.int64) for v in (0, 1))
    length = g.op("Squeeze", g.op("Shape", indices))
    at = helper._unsqueeze_helper(g, g.op("Range", zero, length, one), [1])
    begun = g.op("Cast", g.op("LessOrEqual", begins, at), to_i=values.INT64)
    bag = g.op("Sub", helper._reducesum_helper(g, begun, axes_i=[1], keepdims_i=0), one)
    return values.from_zero(g, bag), g.op("Shape", begins)


def _summed(g: Any, rows: Any, places: Any, count: Any) -> Any:
    """The sum of the rows of each place."""
    import torch

    width = values.helper()._slice_helper(g, g.op("Shape", rows), axes=[0], starts=[1], ends=[2])
    zeros = g.op(
        "Expand", values.constant(g, 0.0, torch.float), g.op("Concat", count, width, axis_i=0)
    )
    spread = g.op("Expand", values.helper()._unsqueeze_helper(g, places, [1]), g.op("Shape", rows))
    return g.op("ScatterElements", zeros, spread, rows, axis_i=0, reduction_s="add")
