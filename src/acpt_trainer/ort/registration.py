"""Which symbolics an export uses, held in torch's exporter and in ORTModule's registries."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from acpt_trainer.ort.gradients import LACKING
from acpt_trainer.ort.symbolics import (
    activations,
    attention,
    convolution,
    distances,
    embeddings,
    extremes,
    integers,
    losses,
    normalization,
    pooling,
    products,
    randomness,
    recurrence,
    refusals,
    selection,
    sequences,
)

OPSET = 17
"""The ONNX operator set that ORTModule 1.19.2 exports."""

# ORTModule exports these through the ATen executor, a C++ extension. The exporter has its own
# symbolics for them, so nothing needs a compiler.
ATEN_SYMBOLICS = (
    "argmax",
    "group_norm",
    "max",
    "min",
    "diagonal",
    "bitwise_or",
    "unfold",
    "avg_pool2d",
    "adaptive_avg_pool2d",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "upsample_bicubic2d",
    "multinomial",
    "max_pool2d",
)

ACTIVATION_SYMBOLICS = (
    "gelu",
    "pow",
    "softplus",
    "log_sigmoid",
    "hardtanh",
    "relu6",
    "mish",
    "hardsigmoid",
    "hardswish",
    "expm1",
    "elu",
    "celu",
    "selu",
)

# Made of Dropout's coin flips; what else draws random numbers is refused.
RANDOM_SYMBOLICS = (
    "rand",
    "rand_like",
    "randn",
    "randn_like",
    "bernoulli",
    "uniform",
    "exponential",
    "randint",
    "randint_like",
    "multinomial",
)
DISTANCES = ("cdist", "pairwise_distance")
NLL = ("nll_loss", "nll_loss2d", "nll_loss_nd")
REFUSED_RANDOM = ("normal", "rrelu")


def _symbolics(upstream: dict[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """The whole set to export with: ORTModule's own, less the ATen ones, with ours on top."""
    chosen = {k: fn for k, fn in upstream.items() if k.split("::")[-1] not in ATEN_SYMBOLICS}
    by_number = chosen.pop("::_convolution")
    chosen.pop("::_convolution_mode")
    chosen.pop("::nll_loss")
    return {
        **chosen,
        "aten::scaled_dot_product_attention": attention.scaled_dot_product_attention,
        "aten::where": selection.where,
        "::embedding": embeddings.embedding,
        "aten::embedding_bag": embeddings.embedding_bag,
        "aten::masked_fill": selection.masked_fill,
        "aten::gather": selection.gather,
        "aten::to": integers.to,
        "aten::floor_divide": integers.floor_divide,
        "aten::one_hot": selection.one_hot,
        "::cross_entropy_loss": losses.cross_entropy(chosen["::cross_entropy_loss"]),
        **{f"aten::{name}": losses.nll_loss for name in NLL},
        "aten::batch_norm": normalization.batch_norm,
        "aten::detach": selection.detach,
        "prim::ConstantChunk": sequences.constant_chunk(chosen["prim::ConstantChunk"]),
        "aten::diff": sequences.diff,
        "aten::unfold": sequences.unfold,
        "aten::unflatten": sequences.unflatten,
        "aten::cumsum": sequences.cumsum,
        **{f"aten::max_pool{n}d": pooling.max_pool(n) for n in (1, 2, 3)},
        **{f"aten::max_pool{n}d_with_indices": pooling.max_pool(n, True) for n in (1, 2, 3)},
        **{f"aten::avg_pool{n}d": pooling.average_pool(n) for n in (1, 2, 3)},
        **{
            f"aten::adaptive_{kind}_pool{n}d": pooling.adaptive_pool(n, kind)
            for kind in ("avg", "max")
            for n in (1, 2, 3)
        },
        **{f"aten::{name}": getattr(activations, name) for name in ACTIVATION_SYMBOLICS},
        "aten::max": extremes.extreme("max"),
        "aten::min": extremes.extreme("min"),
        "aten::amax": extremes.along("ReduceMax"),
        "aten::amin": extremes.along("ReduceMin"),
        "aten::binary_cross_entropy_with_logits": losses.binary_cross_entropy_with_logits,
        "aten::hstack": sequences.stacked(1),
        "aten::vstack": sequences.stacked(0),
        "aten::linspace": sequences.linspace,
        "aten::matmul": products.matmul,
        "aten::lstm": recurrence.recurrent("LSTM"),
        "aten::gru": recurrence.recurrent("GRU"),
        "aten::rnn_tanh": recurrence.recurrent("RNN"),
        **{f"aten::{name}": refusals.refused(name, w) for name, w in refusals.CRASHING.items()},
        "aten::std": distances.std,
        "aten::std_mean": distances.std_mean,
        "aten::cosine_similarity": distances.cosine_similarity,
        **{f"aten::{name}": distances.of_even_powers(name) for name in DISTANCES},
        "aten::repeat_interleave": sequences.repeat_interleave,
        "aten::layer_norm": normalization.layer_norm,
        "aten::rms_norm": normalization.rms_norm,
        "aten::linalg_norm": normalization.linalg_norm,
        "aten::linalg_vector_norm": normalization.vector_norm,
        "aten::group_norm": normalization.group_norm,
        "aten::instance_norm": normalization.instance_norm,
        "aten::index_put": selection.index_put,
        "aten::index_add": selection.index_add,
        "aten::index_copy": selection.index_copy,
        "aten::eye": selection.eye,
        "::einsum": products.einsum,
        "aten::kron": products.kron,
        "aten::diagonal": selection.diagonal,
        "aten::flip": sequences.flip,
        "aten::roll": sequences.roll,
        "aten::tensor_split": sequences.tensor_split,
        **{f"aten::{name}": getattr(randomness, name) for name in RANDOM_SYMBOLICS},
        **{f"aten::{name}": randomness.refused(name) for name in REFUSED_RANDOM},
        "aten::_convolution": convolution.grouped_convolution(by_number),
        "aten::_convolution_mode": convolution.convolution_mode,
    }


@contextlib.contextmanager
def registered() -> Iterator[None]:
    """Holds our symbolics in torch's exporter and in ORTModule's registry, and takes them out.

    Taken out, a `torch.onnx.export` of the user's own is as without us.
    """
    from onnxruntime.training.ortmodule import (
        _custom_gradient_registry,
        _custom_op_symbolic_registry,
    )
    from torch.onnx import unregister_custom_op_symbolic

    registry = _custom_op_symbolic_registry.CustomOpSymbolicRegistry
    gradients = _custom_gradient_registry.CustomGradientRegistry
    upstream = dict(registry._SYMBOLICS)
    registry._SYMBOLICS = _symbolics(upstream)
    known = dict(gradients._GRADIENTS)
    for key, definition in LACKING.items():
        gradients.register(*key.split("::"), (), lambda nodes=definition: nodes)
    try:
        yield  # ORTModule registers what it finds in the two registries when it is constructed.
    finally:
        for name in registry._SYMBOLICS:
            with contextlib.suppress(ValueError, KeyError):
                unregister_custom_op_symbolic(name, OPSET)
        registry._SYMBOLICS = upstream
        gradients._GRADIENTS = known
