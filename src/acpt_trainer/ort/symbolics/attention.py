"""Attention as the exporter writes it."""

from __future__ import annotations

import importlib
from typing import Any

from acpt_trainer.ort.recompute import recomputes
from acpt_trainer.ort.symbolics import values


def scaled_dot_product_attention(
    g: Any,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: Any = 0.0,
    is_causal: Any = False,
    scale: Any = None,
    enable_gqa: Any = False,
) -> Any:
    """Attention as MatMul, Softmax, Dropout, MatMul.

    The exporter's own emits `Dropout` with one output, and ONNX Runtime's gradient builder needs
    the mask, its second output (`O(size_t, bool) ... was false`). It also scales both operands,
    which is one more multiplication. Rows that are masked whole become zero, as in PyTorch.
    """
    import torch

    helper = values.helper()
    opset14 = importlib.import_module("torch.onnx._internal.torchscript_exporter.symbolic_opset14")
    dropout_p = helper._maybe_get_const(dropout_p, "f")
    if helper._maybe_get_const(enable_gqa, "b"):
        return helper._unimplemented("scaled_dot_product_attention", "enable_gqa=True")
    if not values.given(scale):
        scale = opset14._attention_scale(g, query)
    if helper._maybe_get_const(is_causal, "b"):
        attn_mask = opset14._causal_attention_mask(g, query, key)
    rank = helper._get_tensor_rank(key)
    swapped = [*range(rank - 2), rank - 1, rank - 2]
    scores = g.op("MatMul", g.op("Mul", query, scale), g.op("Transpose", key, perm_i=swapped))
    keep = None
    dtype = values.scalar_type(query).dtype()
    if values.given(attn_mask):
        if values.is_bool(attn_mask):
            keep = attn_mask
            lowest = values.constant(g, [torch.finfo(dtype).min], dtype)
            attn_mask = g.op("Where", keep, values.constant(g, [0.0], dtype), lowest)
        scores = g.op("Add", scores, attn_mask)
    weights = g.op("Softmax", scores, axis_i=-1)
    repeated = keep is not None and recomputes()
    if repeated:  # of this the softmax is computed again, and not with what `_of_kept` adds
        weights = g.op("Where", keep, weights, values.constant(g, [0.0], dtype))
    if dropout_p:
        ratio = values.constant(g, dropout_p, torch.float)
        weights, _ = g.op(
            "Dropout", weights, ratio, values.constant(g, True, torch.bool), outputs=2
        )
    out = g.op("MatMul", weights, value)
    return out if keep is None or repeated else _of_kept(g, out, keep, query)


def _of_kept(g: Any, out: Any, keep: Any, query: Any) -> Any:
    """Zero in rows that are masked whole; elsewhere what is masked has a weight of zero already."""
    kept = g.op("Cast", keep, to_i=values.scalar_type(query).onnx_type())
    return g.op("Mul", out, g.op("ReduceMax", kept, axes_i=[-1]))
