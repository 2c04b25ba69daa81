"""LSTM, GRU and RNN, each direction of each layer by itself, since only such have a gradient.

The gradients of ONNX Runtime are of one direction, of LSTM and of GRU. The other direction runs
over the reversed sequence. An RNN is a GRU whose gates are constants: nothing is kept of the state
but what the new one is made of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from acpt_trainer.ort.symbolics import sequences, values

# Where ONNX has PyTorch's gates. LSTM: input, forget, cell, output; GRU: reset, update, new.
_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}

# Beyond it a sigmoid is 0 or 1 in float32.
_SHUT = 100.0

RELU = (
    "ONNX Runtime has no gradient of recurrence with ReLU; use nonlinearity='tanh', or nn.RNNCell "
    "in a loop over the length"
)
PROJECTED = (
    "ONNX Runtime has no gradient of an LSTM with projections; leave proj_size out, and put an "
    "nn.Linear behind the layer"
)
PACKED = (
    "ONNX Runtime has no gradient of packed sequences; pass the padded tensor to the layer and "
    "leave the padding out of the loss (of two directions, one then begins in the padding)"
)


def recurrent(kind: str) -> Callable[..., Any]:
    """The symbolic of a whole stack of layers: `LSTM`, `GRU` or `RNN`."""

    def symbolic(g: Any, x: Any, states: Any, weights: Any, *options: Any) -> Any:
        helper = values.helper()
        if helper._is_tensor_list(options[0]):  # sizes of batches come first, and weights later
            return helper._unimplemented(kind, PACKED)
        biased, layers, dropout, train, both, batch_first = (
            helper._maybe_get_const(v, t) for v, t in zip(options, "iifiii", strict=True)
        )
        directions = 2 if both else 1
        weights = helper._unpack_list(weights)
        each = 4 if biased else 2
        if len(weights) != layers * directions * each:
            return helper._unimplemented(kind, PROJECTED)
        states = helper._unpack_list(states) if kind == "LSTM" else [states]
        x = g.op("Transpose", x, perm_i=[1, 0, 2]) if batch_first else x
        last: list[list[Any]] = []
        for layer in range(layers):
            if layer and dropout and train:
                x = _dropped(g, x, dropout)
            sides = []
            for side in range(directions):
                n = layer * directions + side
                own = [_one_of(g, s, n) for s in states]
                y, *ends = _direction(g, kind, x, weights[n * each :][:each], own, bool(side))
                sides.append(y)
                last.append(ends)
            x = g.op("Concat", *sides, axis_i=2) if both else sides[0]
        x = g.op("Transpose", x, perm_i=[1, 0, 2]) if batch_first else x
        return (x, *(g.op("Concat", *ends, axis_i=0) for ends in zip(*last, strict=True)))

    return symbolic


def _direction(
    g: Any, kind: str, x: Any, weights: Sequence[Any], states: Sequence[Any], backwards: bool
) -> tuple[Any, ...]:
    """All states of a layer in one direction, and the last ones."""
    import torch

    helper = values.helper()
    hidden = helper._get_tensor_dim_size(weights[1], 1)
    if hidden is None:
        unknown: tuple[Any, ...] = helper._unimplemented(kind, "its hidden size is not known")
        return unknown
    w, r, *biases = (_gates(g, kind, v, hidden) for v in weights)
    if not biases:
        zeros = g.op("Constant", value_t=torch.zeros(hidden * len(_GATES[kind])))
        biases = [zeros, zeros]
    if kind == "RNN":
        w, r, *biases = _shut(g, w, r, biases, hidden)
    x = sequences.flip(g, x, [0]) if backwards else x
    b = g.op("Concat", *biases, axis_i=0)
    parts = [helper._unsqueeze_helper(g, v, [0]) for v in (w, r, b)]
    no_lengths = g.op("prim::Constant")
    no_lengths.setType(torch._C.OptionalType.ofTensor())
    options = {} if kind == "LSTM" else {"linear_before_reset_i": 1}
    y, *ends = g.op(
        "LSTM" if kind == "LSTM" else "GRU",
        x,
        *parts,
        no_lengths,
        *states,
        outputs=1 + len(states),
        hidden_size_i=hidden,
        **options,
    )
    y = helper._squeeze_helper(g, y, [1])
    return (sequences.flip(g, y, [0]) if backwards else y, *ends)


def _gates(g: Any, kind: str, weight: Any, hidden: int) -> Any:
    """A weight or bias with its gates in ONNX's order."""
    order = _GATES[kind]
    if len(order) == 1:
        return weight
    slices = [
        values.helper()._slice_helper(
            g, weight, axes=[0], starts=[n * hidden], ends=[(n + 1) * hidden]
        )
        for n in order
    ]
    return g.op("Concat", *slices, axis_i=0)


def _shut(g: Any, w: Any, r: Any, biases: Sequence[Any], hidden: int) -> tuple[Any, ...]:
    """What makes a GRU of an RNN: an update gate of 0 and a reset gate of 1, whatever comes."""
    import torch

    def before(gates: torch.Tensor, weight: Any) -> Any:
        return g.op("Concat", g.op("Constant", value_t=gates), weight, axis_i=0)

    width = values.helper()._get_tensor_dim_size(w, 1)
    shut = torch.full((2 * hidden,), _SHUT)
    shut[:hidden] *= -1
    return (
        before(torch.zeros(2 * hidden, width), w),
        before(torch.zeros(2 * hidden, hidden), r),
        before(shut, biases[0]),
        before(torch.zeros(2 * hidden), biases[1]),
    )


def _one_of(g: Any, states: Any, number: int) -> Any:
    return values.helper()._slice_helper(g, states, axes=[0], starts=[number], ends=[number + 1])


def _dropped(g: Any, x: Any, p: float) -> Any:
    import torch

    yes = values.constant(g, True, torch.bool)
    return g.op("Dropout", x, values.constant(g, p, torch.float), yes, outputs=2)[0]
