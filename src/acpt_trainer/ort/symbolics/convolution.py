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


def grouped_convolution_mode(upstream: Callable[..., Any]) -> Callable[..., Any]:
    """Convolutions that are padded to the "same" length, or not ("valid")."""

    def symbolic(
        g: Any,
        input: Any,
        weight: Any,
        bias: Any,
        stride: Any,
        padding: Any,
        dilation: Any,
        groups: Any,
    ) -> Any:
        helper = values.helper()
        strides = helper._maybe_get_const(stride, "is")
        group = helper._maybe_get_const(groups, "i")
        if len(strides) != 1 or group == 1:
            return upstream(g, input, weight, bias, stride, padding, dilation, groups)
        total = 0
        if helper._maybe_get_const(padding, "s") == "same":
            width = helper._get_tensor_sizes(weight)[2]
            total = helper._maybe_get_const(dilation, "is")[0] * (width - 1)
        pads = (total // 2, total - total // 2)
        return _of_height_one(g, (input, weight, bias), stride, pads, dilation, group)

    return symbolic
