"""How PyTorch operators are exported so that ONNX Runtime 1.19.2 can run and differentiate them.

A symbolic function receives the exporter's graph context and graph values and returns graph values
(see `torch.onnx.register_custom_op_symbolic`). `registration` puts them in place. Each one says
what is wrong without it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

_FLOAT, _INT64, _BOOL = 1, 7, 9  # onnx.TensorProto.DataType


def _helper() -> Any:
    import torch.onnx.symbolic_helper as helper

    return helper


def _scalar_type(value: Any) -> Any:
    from torch.onnx._internal.torchscript_exporter._type_utils import JitScalarType

    return JitScalarType.from_value(value, JitScalarType.UNDEFINED)


def _is_bool(value: Any) -> bool:
    return bool(_scalar_type(value).name == "BOOL")


def _constant(g: Any, value: Any, dtype: Any) -> Any:
    import torch

    return g.op("Constant", value_t=torch.tensor(value, dtype=dtype))


def _given(value: Any) -> bool:
    return value is not None and not _helper()._is_none(value)


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

    helper = _helper()
    opset14 = importlib.import_module("torch.onnx._internal.torchscript_exporter.symbolic_opset14")
    dropout_p = helper._maybe_get_const(dropout_p, "f")
    if helper._maybe_get_const(enable_gqa, "b"):
        return helper._unimplemented("scaled_dot_product_attention", "enable_gqa=True")
    if not _given(scale):
        scale = opset14._attention_scale(g, query)
    if helper._maybe_get_const(is_causal, "b"):
        attn_mask = opset14._causal_attention_mask(g, query, key)
    rank = helper._get_tensor_rank(key)
    swapped = [*range(rank - 2), rank - 1, rank - 2]
    scores = g.op("MatMul", g.op("Mul", query, scale), g.op("Transpose", key, perm_i=swapped))
    keep = None
    dtype = _scalar_type(query).dtype()
    if _given(attn_mask):
        if _is_bool(attn_mask):
            keep = attn_mask
            lowest = _constant(g, [torch.finfo(dtype).min], dtype)
            attn_mask = g.op("Where", keep, _constant(g, [0.0], dtype), lowest)
        scores = g.op("Add", scores, attn_mask)
    weights = g.op("Softmax", scores, axis_i=-1)
    if keep is not None:
        weights = g.op("Where", keep, weights, _constant(g, [0.0], dtype))
    if dropout_p:
        ratio = _constant(g, dropout_p, torch.float)
        weights, _ = g.op("Dropout", weights, ratio, _constant(g, True, torch.bool), outputs=2)
    return g.op("MatMul", weights, value)


def where(g: Any, condition: Any, self: Any = None, other: Any = None, outputs: Any = None) -> Any:
    """`Where` with operands expanded to the result's shape.

    ONNX Runtime's `WhereGrad` does not sum the gradient over broadcast dimensions, so that a
    broadcast operand gets a gradient of the wrong shape or value; `ExpandGrad` does sum.
    """
    helper = _helper()
    if self is None or other is None:
        opset9 = importlib.import_module(
            "torch.onnx._internal.torchscript_exporter.symbolic_opset9"
        )
        return opset9.where(g, condition, self, other, outputs)
    if not _is_bool(condition):
        condition = g.op("Cast", condition, to_i=_BOOL)

    def constant(v: Any) -> bool:
        kind = v.node().kind()
        return kind in ("onnx::Constant", "prim::Constant") or helper._get_tensor_rank(v) == 0

    def expanded(v: Any, *others: Any) -> Any:
        if constant(v):
            return v
        result = v
        for o in others:
            if not constant(o):
                result = g.op("Expand", result, g.op("Shape", o))
        result.setType(v.type())
        return result

    return g.op(
        "Where", condition, expanded(self, condition, other), expanded(other, condition, self)
    )


def embedding(
    g: Any, weight: Any, indices: Any, padding_idx: Any, scale_grad_by_freq: Any, sparse: Any
) -> Any:
    """Embedding as `Gather`, whose gradient ONNX Runtime has, instead of an ATen node.

    PyTorch gives the padding row no gradient: where the index is the padding index, the value goes
    through `Shrink` (the identity for bias 0 and threshold 0) whose gradient is registered as zero.
    """
    import torch

    helper = _helper()
    if helper._maybe_get_const(scale_grad_by_freq, "b"):
        return helper._unimplemented("embedding", "scale_grad_by_freq=True")
    if helper._maybe_get_const(sparse, "b"):
        return helper._unimplemented("embedding", "sparse=True")
    rows = g.op("Gather", weight, indices)
    padding = helper._maybe_get_const(padding_idx, "i")
    if not isinstance(padding, int) or padding < 0:
        return rows
    is_padding = g.op(
        "Unsqueeze",
        g.op("Equal", indices, _constant(g, padding, torch.int64)),
        _constant(g, [-1], torch.int64),
    )
    stopped = g.op("Shrink", rows, lambd_f=0.0, bias_f=0.0)
    out = g.op("Where", is_padding, stopped, rows)
    out.setType(rows.type())
    return out


def constant_chunk(upstream: Callable[..., Any]) -> Callable[..., Any]:
    """`chunk` of a known size as a `Split` with constant sizes.

    ORTModule exports sizes computed in the graph, which its gradient builder does not accept.
    """

    def symbolic(g: Any, self: Any, chunks: int, dim: int) -> Any:
        import torch

        size = _helper()._get_tensor_dim_size(self, dim)
        if size is None or chunks == 1:
            return upstream(g, self, chunks, dim)
        part = -(-size // chunks)
        sizes = [part] * (size // part) + ([size % part] if size % part else [])
        if len(sizes) != chunks:
            return upstream(g, self, chunks, dim)
        return g.op("Split", self, _constant(g, sizes, torch.int64), axis_i=dim, outputs=chunks)

    return symbolic


def diff(g: Any, self: Any, n: Any, dim: Any, prepend: Any = None, append: Any = None) -> Any:
    """`torch.diff`, which has no symbolic; transformers' packed-sequence masks use it."""
    helper = _helper()
    n, dim = helper._maybe_get_const(n, "i"), helper._maybe_get_const(dim, "i")
    parts = [v for v in (prepend, self, append) if _given(v)]
    x = g.op("Concat", *parts, axis_i=dim) if len(parts) > 1 else self
    for _ in range(n):
        tail = helper._slice_helper(g, x, axes=[dim], starts=[1], ends=[2**63 - 1])
        head = helper._slice_helper(g, x, axes=[dim], starts=[0], ends=[-1])
        if _is_bool(self):
            x = g.op("Not", g.op("Equal", tail, head))
        else:
            x = g.op("Sub", tail, head)
    return x


def cumsum(g: Any, self: Any, dim: Any, dtype: Any = None) -> Any:
    """`cumsum` of bool and small integers, for which ONNX Runtime has no kernel: cast first."""
    import torch

    opset11 = importlib.import_module("torch.onnx._internal.torchscript_exporter.symbolic_opset11")
    kind = _scalar_type(self).name
    if kind in ("FLOAT", "DOUBLE", "INT", "INT64") or (_given(dtype) and kind != "BOOL"):
        return opset11.cumsum(g, self, dim, dtype)
    target = _FLOAT if kind in ("HALF", "BFLOAT16") else _INT64
    axis = dim
    if not _helper()._is_tensor(dim):
        axis = _constant(g, _helper()._maybe_get_const(dim, "i"), torch.int64)
    return g.op("CumSum", g.op("Cast", self, to_i=target), axis)


def grouped_convolution(upstream: Callable[..., Any]) -> Callable[..., Any]:
    """1-D convolutions with groups as 2-D ones of height 1.

    ONNX Runtime 1.19's CPU `ConvGrad` overruns the heap for 1-D convolutions with groups > 1.
    """

    def symbolic(
        g: Any,
        input: Any,
        weight: Any,
        bias: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        transposed: Any,
        output_padding: Any,
        groups: Any,
        *flags: Any,
    ) -> Any:
        helper = _helper()
        strides = helper._maybe_get_const(stride, "is")
        group = helper._maybe_get_const(groups, "i")
        if len(strides) != 1 or group == 1 or helper._maybe_get_const(transposed, "i"):
            return upstream(
                g, input, weight, bias, stride, padding, dilation, transposed, output_padding,
                groups, *flags,
            )  # fmt: skip
        pad = helper._maybe_get_const(padding, "is")[0]
        operands = [helper._unsqueeze_helper(g, v, [2]) for v in (input, weight)]
        if _given(bias):
            operands.append(bias)
        out = g.op(
            "Conv",
            *operands,
            kernel_shape_i=[1, *helper._get_tensor_sizes(weight)[2:]],
            strides_i=[1, *strides],
            pads_i=[0, pad, 0, pad],
            dilations_i=[1, *helper._maybe_get_const(dilation, "is")],
            group_i=group,
        )
        return helper._squeeze_helper(g, out, [2])

    return symbolic
