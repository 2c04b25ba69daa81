"""What the exporter or ONNX Runtime does otherwise to integers."""

from __future__ import annotations

import importlib
from typing import Any

from acpt_trainer.ort.symbolics import values


def to(g: Any, self: Any, *args: Any) -> Any:
    """`Tensor.to(bool)` as a comparison.

    Of two casts in a row ONNX Runtime leaves the first out: `x.long().bool()` would be `x.bool()`.
    """
    opset9 = importlib.import_module("torch.onnx._internal.torchscript_exporter.symbolic_opset9")
    out = opset9.to(g, self, *args)
    node = out.node()
    if node.kind() != "onnx::Cast" or node.i("to") != values.BOOL or values.is_bool(self):
        return out
    kind = values.scalar_type(self)
    if kind.name == "UNDEFINED":
        return out
    return g.op("Not", g.op("Equal", self, values.constant(g, 0, kind.dtype())))


def floor_divide(g: Any, self: Any, other: Any) -> Any:
    """`//` that rounds down, where the exporter cuts off: `-1 // 2` would be 0.

    Of sizes, which are never below zero, it is the exporter's: ONNX Runtime's shape inference gives
    up on the rounding.
    """
    opset9 = importlib.import_module("torch.onnx._internal.torchscript_exporter.symbolic_opset9")
    if _is_size(self) and _is_size(other):
        return opset9._trunc_divide(g, self, other)
    return opset9._floor_divide(g, self, other)


_OF_THE_FIRST = ("Gather", "Cast", "Squeeze", "Unsqueeze")  # what else they take are places


def _is_size(value: Any) -> bool:
    """Whether a value is a size, a number that is not negative, or made of such."""
    node = value.node()
    kind = node.kind().removeprefix("onnx::")
    if kind == "Shape":
        return True
    if kind == "Constant":
        return bool((node.t("value") >= 0).all())
    used = [*node.inputs()][: 1 if kind in _OF_THE_FIRST else None]
    return kind in (*_OF_THE_FIRST, "Add", "Mul", "Div") and all(map(_is_size, used))
