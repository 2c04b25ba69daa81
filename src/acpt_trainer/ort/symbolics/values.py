"""Reading and making values of the exporter's graph."""

from __future__ import annotations

from typing import Any

FLOAT, INT64, BOOL = 1, 7, 9  # onnx.TensorProto.DataType


def helper() -> Any:
    """torch's own helpers for symbolics."""
    import torch.onnx.symbolic_helper as helper

    return helper


def scalar_type(value: Any) -> Any:
    """The dtype of a value as a `JitScalarType`; UNDEFINED where the tracer does not know it."""
    from torch.onnx._internal.torchscript_exporter._type_utils import JitScalarType

    return JitScalarType.from_value(value, JitScalarType.UNDEFINED)


def is_bool(value: Any) -> bool:
    """Whether a value holds booleans."""
    return bool(scalar_type(value).name == "BOOL")


def is_floating(value: Any) -> bool:
    """Whether a value may hold floating-point numbers: it is not known to hold others."""
    return bool(scalar_type(value).name in ("FLOAT", "DOUBLE", "HALF", "BFLOAT16", "UNDEFINED"))


def constant(g: Any, value: Any, dtype: Any) -> Any:
    """A constant of the graph."""
    import torch

    return g.op("Constant", value_t=torch.tensor(value, dtype=dtype))


def cast(g: Any, value: Any, number: int) -> Any:
    """A value in the dtype that has a number in PyTorch."""
    from torch.onnx._internal.torchscript_exporter._type_utils import JitScalarType

    kind = JitScalarType(number)
    out = g.op("Cast", value, to_i=kind.onnx_type())
    out.setType(value.type().with_dtype(kind.dtype()))
    return out


def given(value: Any) -> bool:
    """Whether an optional argument was given."""
    return value is not None and not helper()._is_none(value)


def from_zero(g: Any, index: Any) -> Any:
    """An index that is out of bounds where it is negative.

    ONNX counts negative ones from the end; in PyTorch `x[i]` alone does, and the rest raises.
    What is broadcast is looked at before it is: DeBERTa's positions are the same for each head.
    """
    import torch

    made = index.node()
    if made.kind() == "onnx::Expand":
        small, shape = made.inputs()
        checked = g.op("Expand", from_zero(g, small), shape)
        checked.setType(index.type())
        return checked
    dtype = scalar_type(index).dtype() if scalar_type(index).name != "UNDEFINED" else torch.int64
    beyond = constant(g, torch.iinfo(dtype).max, dtype)
    checked = g.op("Where", g.op("Less", index, constant(g, 0, dtype)), beyond, index)
    checked.setType(index.type())
    return checked
