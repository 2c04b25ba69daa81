"""Convolution, pooling, resizing, normalization and recurrence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .expressions import numbers
from .operators import Operator, of_images, of_product, of_weight

IMAGES = (numbers(2, 4, 6, 6), numbers(3, 4, 8, 8))
WAVES = (numbers(2, 4, 9), numbers(3, 4, 12))
VOLUMES = (numbers(2, 4, 5, 5, 5), numbers(1, 4, 6, 5, 7))


def convolution(
    function: Callable[..., torch.Tensor], shape: tuple[int, ...], **options: Any
) -> Operator:
    inputs = {3: WAVES, 4: IMAGES, 5: VOLUMES}[len(shape)]
    return of_weight(lambda w, x: function(x, w, **options), shape, *inputs)


def of_waves(function: Callable[[torch.Tensor], torch.Tensor]) -> Operator:
    return of_weight(lambda w, x: function(x * w[:, : x.shape[2]]), (4, 12), *WAVES)


def of_volumes(function: Callable[[torch.Tensor], torch.Tensor]) -> Operator:
    return of_weight(lambda w, x: function(x * w), (4, 1, 1, 1), *VOLUMES)


def resized(**options: Any) -> Operator:
    return of_images(lambda x: F.interpolate(x, **options))


def recurrent(kind: type[nn.RNNBase], **options: Any) -> Operator:
    torch.manual_seed(0)
    layer = kind(8, 4, batch_first=True, **options).requires_grad_(False)
    return of_product(lambda y: layer(y)[0])


def stepwise(kind: type[nn.RNNCellBase], **options: Any) -> Operator:
    torch.manual_seed(0)
    cell = kind(8, 4, **options).requires_grad_(False)

    def last(y: torch.Tensor) -> torch.Tensor:
        state = cell(y[:, 0], cell(y[:, 1]))
        return state[0] if isinstance(state, tuple) else state

    return of_product(last)


def packed(y: torch.Tensor, layer: nn.RNNBase | None = None) -> torch.Tensor:
    lengths = torch.full((y.shape[0],), 2)
    rows = nn.utils.rnn.pack_padded_sequence(y, lengths, batch_first=True)
    rows = layer(rows)[0] if layer else rows
    return nn.utils.rnn.pad_packed_sequence(rows, batch_first=True)[0]


def batch_normalized(x: torch.Tensor) -> torch.Tensor:
    return F.batch_norm(x, torch.arange(4.0), torch.full((4,), 2.0))


OPERATORS: dict[str, Operator] = {
    "conv1d": convolution(F.conv1d, (5, 4, 3), padding=1, stride=2),
    "conv1d (same)": convolution(F.conv1d, (5, 4, 4), padding="same"),
    "conv1d (groups)": convolution(F.conv1d, (8, 1, 3), padding=1, groups=4),
    "conv1d (dilation)": convolution(F.conv1d, (5, 4, 3), padding=2, dilation=2),
    "conv1d (causal)": of_weight(
        lambda w, x: F.conv1d(F.pad(x, (2, 0)), w, groups=4), (4, 1, 3), *WAVES
    ),
    "conv2d": convolution(F.conv2d, (5, 4, 3, 3), padding=1),
    "conv2d (bias)": of_weight(
        lambda w, x: F.conv2d(x, w, w.sum((1, 2, 3))), (5, 4, 3, 3), *IMAGES
    ),
    "conv2d (groups)": convolution(F.conv2d, (8, 1, 3, 3), padding=1, groups=4),
    "conv2d (two groups)": convolution(F.conv2d, (6, 2, 3, 3), padding=1, groups=2),
    "conv2d (same)": convolution(F.conv2d, (5, 4, 3, 3), padding="same"),
    "conv2d (same, even)": convolution(F.conv2d, (5, 4, 2, 2), padding="same"),
    "conv2d (valid)": convolution(F.conv2d, (5, 4, 3, 3), padding="valid"),
    "conv2d (dilation)": convolution(F.conv2d, (5, 4, 3, 3), padding=2, dilation=2, stride=2),
    "conv2d (patches)": convolution(F.conv2d, (5, 4, 2, 2), stride=2),
    "conv2d (uneven)": convolution(F.conv2d, (5, 4, 3, 1), padding=(1, 0), stride=(1, 2)),
    "conv3d": convolution(F.conv3d, (5, 4, 3, 3, 3), padding=1),
    "conv_transpose1d": convolution(F.conv_transpose1d, (4, 5, 2), stride=2),
    "conv_transpose2d": convolution(F.conv_transpose2d, (4, 5, 2, 2), stride=2),
    "conv_transpose2d (padding)": convolution(
        F.conv_transpose2d, (4, 5, 3, 3), stride=2, padding=1, output_padding=1
    ),
    "conv_transpose2d (groups)": convolution(F.conv_transpose2d, (4, 2, 2, 2), groups=2),
    "conv_transpose3d": convolution(F.conv_transpose3d, (4, 3, 2, 2, 2), stride=2),
    "avg_pool1d": of_waves(lambda x: F.avg_pool1d(x, 3, 2, 1)),
    "avg_pool1d (no padding counted)": of_waves(
        lambda x: F.avg_pool1d(x, 3, 2, 1, count_include_pad=False)
    ),
    "avg_pool1d (ceil)": of_waves(lambda x: F.avg_pool1d(x, 2, 2, ceil_mode=True)),
    "avg_pool2d": of_images(lambda x: F.avg_pool2d(x, 2)),
    "avg_pool2d (padding)": of_images(lambda x: F.avg_pool2d(x, 3, 2, 1)),
    "avg_pool2d (no padding counted)": of_images(
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
    ),
    "avg_pool2d (no padding)": of_images(lambda x: F.avg_pool2d(x, 2, count_include_pad=False)),
    "avg_pool2d (ceil)": of_images(lambda x: F.avg_pool2d(x, 4, 3, ceil_mode=True)),
    "avg_pool2d (divisor)": of_images(lambda x: F.avg_pool2d(x, 2, divisor_override=3)),
    "avg_pool3d": of_volumes(lambda x: F.avg_pool3d(x, 2)),
    "max_pool1d": of_waves(lambda x: F.max_pool1d(x, 3, 2, 1)),
    "max_pool2d": of_images(lambda x: F.max_pool2d(x, 2)),
    "max_pool2d (padding)": of_images(lambda x: F.max_pool2d(x, 3, 2, 1)),
    "max_pool2d (dilation)": of_images(lambda x: F.max_pool2d(x, 2, 1, dilation=2)),
    "max_pool2d (ceil)": of_images(lambda x: F.max_pool2d(x, 4, 3, ceil_mode=True)),
    "max_pool2d (indices)": of_images(
        lambda x: (lambda v, i: v * (1 + i))(*F.max_pool2d(x, 2, return_indices=True))
    ),
    "max_pool3d": of_volumes(lambda x: F.max_pool3d(x, 2)),
    "max_unpool2d": of_images(
        lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)
    ),
    "lp_pool2d": of_images(lambda x: F.lp_pool2d(x.abs() + 1, 2.0, 2)),
    "adaptive_avg_pool1d (1)": of_waves(lambda x: F.adaptive_avg_pool1d(x, 1)),
    "adaptive_avg_pool1d (3)": of_waves(lambda x: F.adaptive_avg_pool1d(x, 3)),
    "adaptive_avg_pool2d (1)": of_images(lambda x: F.adaptive_avg_pool2d(x, 1)),
    "adaptive_avg_pool2d (2)": of_images(lambda x: F.adaptive_avg_pool2d(x, 2)),
    "adaptive_avg_pool2d (uneven)": of_images(lambda x: F.adaptive_avg_pool2d(x, 5)),
    "adaptive_max_pool1d (1)": of_waves(lambda x: F.adaptive_max_pool1d(x, 1)),
    "adaptive_max_pool2d (1)": of_images(lambda x: F.adaptive_max_pool2d(x, 1)),
    "adaptive_max_pool2d (2)": of_images(lambda x: F.adaptive_max_pool2d(x, 2)),
    "mean of pixels": of_images(lambda x: x.mean((2, 3))),
    "interpolate (nearest)": resized(scale_factor=2),
    "interpolate (nearest, size)": resized(size=(9, 5)),
    "interpolate (nearest, smaller)": resized(scale_factor=0.5),
    "interpolate (nearest-exact)": resized(scale_factor=2, mode="nearest-exact"),
    "interpolate (bilinear)": resized(scale_factor=2, mode="bilinear"),
    "interpolate (bilinear, corners)": resized(scale_factor=2, mode="bilinear", align_corners=True),
    "interpolate (bilinear, size)": resized(size=(9, 5), mode="bilinear"),
    "interpolate (bilinear, smaller)": resized(scale_factor=0.5, mode="bilinear"),
    "interpolate (bilinear, antialias)": resized(size=(3, 3), mode="bilinear", antialias=True),
    "interpolate (bicubic)": resized(scale_factor=2, mode="bicubic"),
    "interpolate (area)": resized(size=(3, 3), mode="area"),
    "interpolate (linear)": of_waves(lambda x: F.interpolate(x, scale_factor=2, mode="linear")),
    "interpolate (nearest 1-D)": of_waves(lambda x: F.interpolate(x, scale_factor=2)),
    "interpolate (trilinear)": of_volumes(
        lambda x: F.interpolate(x, scale_factor=2, mode="trilinear")
    ),
    "interpolate (to another's size)": of_images(
        lambda x: F.interpolate(F.avg_pool2d(x, 2), size=x.shape[2:], mode="bilinear")
    ),
    "interpolate of what is not trained": of_weight(
        lambda w, x: F.interpolate(x, scale_factor=2, mode="bilinear") * w, (1,), *IMAGES
    ),
    "bicubic of what is not trained": of_weight(
        lambda w, x: F.interpolate(x, scale_factor=2, mode="bicubic") * w, (1,), *IMAGES
    ),
    "nearest of what is not trained": of_weight(
        lambda w, x: F.interpolate(x, size=(9, 5)) * w, (1,), *IMAGES
    ),
    "grid_sample": of_images(lambda x: F.grid_sample(x, torch.zeros(x.shape[0], 3, 3, 2))),
    "affine_grid": of_weight(
        lambda w, x: F.affine_grid(w.expand(x.shape[0], 2, 3), x.shape), (1, 2, 3), *IMAGES
    ),
    "layer_norm": of_product(lambda y: F.layer_norm(y, (8,))),
    "layer_norm (weight)": of_product(lambda y: F.layer_norm(y, (8,), y[0, 0])),
    "layer_norm (two axes)": of_images(
        lambda x: F.layer_norm(x.transpose(1, 3)[:, :6, :6], (6, 4))
    ),
    "rms_norm": of_product(lambda y: F.rms_norm(y, (8,))),
    "group_norm": of_images(lambda x: F.group_norm(x, 2)),
    "group_norm (one)": of_images(lambda x: F.group_norm(x, 1, x.mean((0, 2, 3)))),
    "instance_norm": of_images(F.instance_norm),
    "batch_norm (frozen)": of_images(batch_normalized),
    "local_response_norm": of_images(lambda x: F.local_response_norm(x, 2)),
    "LSTM": recurrent(nn.LSTM),
    "LSTM (both ways)": recurrent(nn.LSTM, bidirectional=True),
    "LSTM (two layers)": recurrent(nn.LSTM, num_layers=2),
    "GRU": recurrent(nn.GRU),
    "GRU (both ways)": recurrent(nn.GRU, bidirectional=True),
    "RNN": recurrent(nn.RNN),
    "RNN (relu)": recurrent(nn.RNN, nonlinearity="relu"),
    "LSTM cell": stepwise(nn.LSTMCell),
    "GRU cell": stepwise(nn.GRUCell),
    "RNN cell": stepwise(nn.RNNCell),
    "RNN cell (relu)": stepwise(nn.RNNCell, nonlinearity="relu"),
    "packed sequence": of_product(packed),
    "packed sequence, GRU": of_product(lambda y: packed(y, nn.GRU(8, 4, batch_first=True))),
    "LSTM, trained": of_product(
        lambda y: torch.lstm(
            y, (y.new_zeros(1, y.shape[0], 2), y.new_zeros(1, y.shape[0], 2)),
            [y[0, 0][:, None].tanh() * y[0, 1], y[0, 0][:, None].tanh() * y[0, 1, :2]],
            False, 1, 0.0, True, False, True,
        )[0]
    ),
}  # fmt: skip
REFUSED: dict[str, str] = {
    **dict.fromkeys(
        (
            "conv_transpose1d",
            "conv_transpose2d",
            "conv_transpose2d (padding)",
            "conv_transpose2d (groups)",
            "conv_transpose3d",
        ),
        "ONNX Runtime has no kernel for ConvTransposeGrad(1) in t",
    ),
    **dict.fromkeys(
        (
            "avg_pool1d (no padding counted)",
            "avg_pool2d (no padding counted)",
        ),
        "the exporter cannot export the operator avg_pool: count_",
    ),
    **dict.fromkeys(
        (
            "avg_pool1d (ceil)",
            "avg_pool2d (ceil)",
        ),
        "the exporter cannot export the operator avg_pool: ceil_m",
    ),
    **dict.fromkeys(("max_unpool2d",), "TypeError: cond must be a bool, but got a Tensor. For te"),
    **dict.fromkeys(
        (
            "adaptive_avg_pool1d (3)",
            "adaptive_avg_pool2d (2)",
            "adaptive_avg_pool2d (uneven)",
            "interpolate (area)",
        ),
        "the exporter cannot export the operator adaptive_avg_poo",
    ),
    **dict.fromkeys(
        ("grid_sample",),
        "no gradient for the operator",
    ),
    **dict.fromkeys(
        ("adaptive_max_pool2d (2)",), "the exporter cannot export the operator adaptive_max_poo"
    ),
    **dict.fromkeys(
        (
            "interpolate (nearest)",
            "interpolate (nearest, size)",
            "interpolate (nearest, smaller)",
            "interpolate (bilinear)",
            "interpolate (bilinear, corners)",
            "interpolate (bilinear, size)",
            "interpolate (bilinear, smaller)",
            "interpolate (bicubic)",
            "interpolate (linear)",
            "interpolate (nearest 1-D)",
            "interpolate (trilinear)",
            "interpolate (to another's size)",
        ),
        "ONNX Runtime has no kernel for ResizeGrad(1) in this pre",
    ),
    **dict.fromkeys(
        (
            "interpolate (nearest-exact)",
            "interpolate (bilinear, antialias)",
            "affine_grid",
        ),
        "no ONNX form for the operator",
    ),
    "RNN (relu)": "no gradient of recurrence with ReLU",
    **dict.fromkeys(("packed sequence", "packed sequence, GRU"), "no gradient of packed sequences"),
}
