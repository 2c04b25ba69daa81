"""Random numbers that change from step to step and follow torch's random state.

ONNX Runtime's `RandomUniform` and its kin seed themselves when a session is made and go on by
themselves: a run that restores torch's random state would not repeat them. `Dropout` alone draws
from the generator that is seeded at each step (see `acpt_trainer.ort.forward`), so all numbers are
made of its coin flips.
"""

from __future__ import annotations

import math
from typing import Any

from acpt_trainer.ort.symbolics import values

BITS = 24
"""Coin flips in a uniform number: as many as a float32 holds exactly, and as torch draws."""


def _shape(g: Any, sizes: Any) -> Any:
    """Sizes, a list of the exporter's, as one value."""
    import torch

    known = values.helper()._maybe_get_const(sizes, "is")
    if isinstance(known, (list, tuple)):
        return values.constant(g, list(known), torch.int64)
    zero = torch.zeros(1)
    return g.op("Shape", g.op("ConstantOfShape", sizes, value_t=zero))


def _uniform(g: Any, shape: Any) -> Any:
    """Uniform in [0, 1), float32."""
    import torch

    flips = g.op("Concat", shape, values.constant(g, [BITS], torch.int64), axis_i=0)
    ones = g.op("ConstantOfShape", flips, value_t=torch.ones(1))
    ratio, training = values.constant(g, 0.5, torch.float), values.constant(g, True, torch.bool)
    _, heads = g.op("Dropout", ones, ratio, training, outputs=2)
    weights = values.constant(g, [2.0**-bit for bit in range(1, BITS + 1)], torch.float)
    return g.op("MatMul", g.op("Cast", heads, to_i=values.FLOAT), weights)


def _normal(g: Any, shape: Any) -> Any:
    """Normal with mean 0 and deviation 1 (Box and Muller), float32."""
    import torch

    radius, angle = _uniform(g, shape), _uniform(g, shape)
    log = g.op("Log", g.op("Sub", values.constant(g, 1.0, torch.float), radius))
    length = g.op("Sqrt", g.op("Mul", log, values.constant(g, -2.0, torch.float)))
    turn = g.op("Mul", angle, values.constant(g, 2 * math.pi, torch.float))
    return g.op("Mul", length, g.op("Cos", turn))


def _typed(g: Any, value: Any, dtype: Any, like: Any = None) -> Any:
    """A float32 value in the dtype that was asked for, else in that of another value."""
    from torch.onnx._internal.torchscript_exporter._type_utils import JitScalarType

    number = values.helper()._get_const(dtype, "i", "dtype") if values.given(dtype) else None
    kind = JitScalarType.FLOAT if number is None else JitScalarType(number)
    if number is None and like is not None:
        kind = JitScalarType.from_value(like, JitScalarType.FLOAT)
    to = kind.onnx_type()
    return value if to == values.FLOAT else g.op("Cast", value, to_i=to)


def rand(g: Any, sizes: Any, dtype: Any = None, *options: Any) -> Any:
    """`torch.rand`, which stochastic depth (drop path) uses."""
    return _typed(g, _uniform(g, _shape(g, sizes)), dtype)


def rand_like(g: Any, self: Any, dtype: Any = None, *options: Any) -> Any:
    """`torch.rand_like`."""
    return _typed(g, _uniform(g, g.op("Shape", self)), dtype, self)


def randn(g: Any, sizes: Any, dtype: Any = None, *options: Any) -> Any:
    """`torch.randn`."""
    return _typed(g, _normal(g, _shape(g, sizes)), dtype)


def randn_like(g: Any, self: Any, dtype: Any = None, *options: Any) -> Any:
    """`torch.randn_like`."""
    return _typed(g, _normal(g, g.op("Shape", self)), dtype, self)


def bernoulli(g: Any, self: Any, p: Any = None, *options: Any) -> Any:
    """`torch.bernoulli`, of a tensor of probabilities or of one probability."""
    import torch

    one = p if values.given(p) and not values.helper()._is_none(p) else None
    if one is not None and not hasattr(one, "node"):
        one = values.constant(g, float(one), torch.float)
    chance = self if one is None else one
    if values.scalar_type(chance).name != "FLOAT":
        chance = g.op("Cast", chance, to_i=values.FLOAT)
    heads = g.op("Less", _uniform(g, g.op("Shape", self)), chance)
    return g.op("Cast", heads, to_i=values.scalar_type(self).onnx_type())


def uniform(g: Any, self: Any, low: Any, high: Any, *options: Any) -> Any:
    """`Tensor.uniform_`, which jitter of routers uses."""
    import torch

    helper = values.helper()
    low, high = helper._maybe_get_const(low, "f"), helper._maybe_get_const(high, "f")
    width, start = (values.constant(g, float(v), torch.float) for v in (high - low, low))
    drawn = _uniform(g, g.op("Shape", self))
    return _typed(g, g.op("Add", g.op("Mul", drawn, width), start), None, self)


def _exponential(g: Any, shape: Any) -> Any:
    """Exponential with rate 1, float32; never zero, since models take its logarithm."""
    import torch

    half_a_step = values.constant(g, 2.0 ** -(BITS + 1), torch.float)
    return g.op("Neg", g.op("Log", g.op("Add", _uniform(g, shape), half_a_step)))


def exponential(g: Any, self: Any, rate: Any, *options: Any) -> Any:
    """`Tensor.exponential_`, which `gumbel_softmax` uses."""
    import torch

    mean = 1 / float(values.helper()._maybe_get_const(rate, "f"))
    drawn = _exponential(g, g.op("Shape", self))
    return _typed(g, g.op("Mul", drawn, values.constant(g, mean, torch.float)), None, self)


def _integers(g: Any, shape: Any, low: Any, high: Any, dtype: Any) -> Any:
    import torch

    low, high = (int(values.helper()._maybe_get_const(v, "i")) for v in (low, high))
    if high - low > 2**BITS:
        return values.helper()._unimplemented("randint", f"a range of more than 2**{BITS}")
    width = values.constant(g, float(high - low), torch.float)
    steps = g.op("Floor", g.op("Mul", _uniform(g, shape), width))
    drawn = g.op("Cast", steps, to_i=values.INT64)
    drawn = g.op("Add", drawn, values.constant(g, low, torch.int64))
    number = values.helper()._get_const(dtype, "i", "dtype") if values.given(dtype) else None
    if number is None:
        return drawn
    from torch.onnx._internal.torchscript_exporter._type_utils import JitScalarType

    return g.op("Cast", drawn, to_i=JitScalarType(number).onnx_type())


def _is_number(value: Any) -> bool:
    return isinstance(values.helper()._maybe_get_const(value, "i"), int)


def randint(g: Any, *operands: Any) -> Any:
    """`torch.randint`, with and without a lower bound."""
    import torch

    if values.helper()._is_packed_list(operands[1]) or not _is_number(operands[1]):
        operands = (values.constant(g, 0, torch.int64), *operands)
    low, high, sizes, dtype = operands[:4]
    return _integers(g, _shape(g, sizes), low, high, dtype)


def randint_like(g: Any, self: Any, *operands: Any) -> Any:
    """`torch.randint_like`, with and without a lower bound."""
    import torch

    if len(operands) == 6:  # no lower bound
        operands = (values.constant(g, 0, torch.int64), *operands)
    low, high, dtype = operands[:3]
    if not values.given(dtype):
        drawn = _integers(g, g.op("Shape", self), low, high, None)
        return g.op("Cast", drawn, to_i=values.scalar_type(self).onnx_type())
    return _integers(g, g.op("Shape", self), low, high, dtype)


def multinomial(
    g: Any, self: Any, samples: Any, replacement: Any = False, generator: Any = None
) -> Any:
    """`torch.multinomial` as a race: those whose exponential time over chance is least."""
    import torch

    helper = values.helper()
    number = helper._maybe_get_const(samples, "i")
    if helper._maybe_get_const(replacement, "b") and number != 1:
        return helper._unimplemented("multinomial", "several samples with replacement")
    times = g.op("Div", _exponential(g, g.op("Shape", self)), self)
    count = values.constant(g, [number], torch.int64)
    _, drawn = g.op("TopK", times, count, axis_i=-1, largest_i=0, sorted_i=1, outputs=2)
    return drawn


def refused(name: str) -> Any:
    """For what draws otherwise: its numbers would not follow torch's random state."""

    def symbolic(g: Any, *operands: Any) -> Any:
        return values.helper()._unimplemented(name, "its draws would not follow torch's state")

    return symbolic
