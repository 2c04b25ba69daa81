"""Convolutions whose gradient ONNX Runtime computes rightly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from acpt_trainer.ort.symbolics import values


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
        helper = values.helper()
        strides = helper._maybe_get_const(stride, "is")
        group = helper._maybe_get_const(groups, "i")
        if len(strides) != 1 or group == 1 or helper._maybe_get_const(transposed, "i"):
            return upstream(
                g, input, weight, bias, stride, padding, dilation, transposed, output_padding,
                groups, *flags,
            )  # fmt: skip
        pad = helper._maybe_get_const(padding, "is")[0]
        operands = [helper._unsqueeze_helper(g, v, [2]) for v in (input, weight)]
        if values.given(bias):
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
