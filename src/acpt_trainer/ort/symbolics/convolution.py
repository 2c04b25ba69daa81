"""Convolutions whose gradient ONNX Runtime computes rightly.

ONNX Runtime 1.19's CPU `ConvGrad` overruns the heap for 1-D convolutions with groups > 1: they are
exported as 2-D ones of height 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from acpt_trainer.ort.symbolics import values


def _of_height_one(
    g: Any,
    operands: tuple[Any, Any, Any],
    stride: Any,
    pads: tuple[int, int],
    dilation: Any,
    groups: int,
) -> Any:
    helper = values.helper()
    input, weight, bias = operands
    flat = [helper._unsqueeze_helper(g, v, [2]) for v in (input, weight)]
    if values.given(bias):
        flat.append(bias)
    out = g.op(
        "Conv",
        *flat,
        kernel_shape_i=[1, *helper._get_tensor_sizes(weight)[2:]],
        strides_i=[1, *helper._maybe_get_const(stride, "is")],
        pads_i=[0, pads[0], 0, pads[1]],
        dilations_i=[1, *helper._maybe_get_const(dilation, "is")],
        group_i=groups,
    )
    return helper._squeeze_helper(g, out, [2])


def grouped_convolution(upstream: Callable[..., Any]) -> Callable[..., Any]:
    """Convolutions that are padded by a number."""

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
        helper = values.helper()
        strides = helper._maybe_get_const(stride, "is")
        group = helper._maybe_get_const(groups, "i")
        if len(strides) != 1 or group == 1 or helper._maybe_get_const(transposed, "i"):
            return upstream(
                g, input, weight, bias, stride, padding, dilation, transposed, output_padding,
                groups, *flags,
            )  # fmt: skip
        pad = helper._maybe_get_const(padding, "is")[0]
        return _of_height_one(g, (input, weight, bias), stride, (pad, pad), dilation, group)

    return symbolic


def convolution_mode(
    g: Any,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
) -> Any:
    """Convolutions padded to the "same" length, or not ("valid"), with the pads as numbers.

    The exporter leaves them to ONNX Runtime (`auto_pad`), whose gradient then is of other pads.
    """
    helper = values.helper()
    strides = helper._maybe_get_const(stride, "is")
    dilations = helper._maybe_get_const(dilation, "is")
    group = helper._maybe_get_const(groups, "i")
    kernel = helper._get_tensor_sizes(weight)[2:]
    same = helper._maybe_get_const(padding, "s") == "same"
    spread = [d * (k - 1) if same else 0 for d, k in zip(dilations, kernel, strict=True)]
    before, after = [s // 2 for s in spread], [s - s // 2 for s in spread]
    if len(strides) == 1 and group > 1:
        operands = (input, weight, bias)
        return _of_height_one(g, operands, stride, (before[0], after[0]), dilation, group)
    return g.op(
        "Conv",
        *[v for v in (input, weight, bias) if values.given(v)],
        kernel_shape_i=kernel,
        strides_i=strides,
        pads_i=[*before, *after],
        dilations_i=dilations,
        group_i=group,
    )
