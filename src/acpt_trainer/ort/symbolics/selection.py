"""Choosing among values: where, gather, assignment through a mask; detach, which stops there."""

from __future__ import annotations

import importlib
from typing import Any

from acpt_trainer.ort.cuts import cut
from acpt_trainer.ort.symbolics import values


def where(g: Any, condition: Any, self: Any = None, other: Any = None, _outputs: Any = None) -> Any:
    """`Where` with operands expanded to the result's shape.

    ONNX Runtime's `WhereGrad` does not sum the gradient over broadcast dimensions, so that a
    broadcast operand gets a gradient of the wrong shape or value; `ExpandGrad` does sum.
    """
    helper = values.helper()
    if self is None or other is None:
        opset9 = importlib.import_module(
            "torch.onnx._internal.torchscript_exporter.symbolic_opset9"
        )
        return opset9.where(g, condition, self, other, _outputs)
    if not values.is_bool(condition):
        condition = g.op("Cast", condition, to_i=values.BOOL)

    def constant(v: Any) -> bool:
        node = v.node()
        if node.kind() == "onnx::Cast" and helper._get_tensor_rank(v) == 0:
            node = node.input().node()
        return node.kind() in ("onnx::Constant", "prim::Constant")

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


def masked_fill(g: Any, self: Any, mask: Any, value: Any) -> Any:
    """`masked_fill` by a value that is computed: `WhereGrad` does not sum its gradient up."""
    helper = values.helper()
    opset9 = importlib.import_module("torch.onnx._internal.torchscript_exporter.symbolic_opset9")
    before = helper._get_tensor_sizes(self)
    after = g.original_node.outputsAt(0).type().sizes()
    # Which sizes may be 1 and grow; most of them are not known.
    grows = g.original_node.inputsAt(0).requires_grad() and before and after
    if grows and any(
        a in (None, 1) and b != 1 for a, b in zip(_led(before, after), after, strict=True)
    ):
        kind = self.type()
        self = g.op("Expand", self, g.op("Shape", mask))
        self.setType(kind.with_sizes([None] * len(after)))
    if value.node().kind() in ("onnx::Constant", "prim::Constant"):
        out = opset9.masked_fill(g, self, mask, value)
        # Otherwise the exporter takes the sizes of the trace for the sizes of every batch.
        kind = g.original_node.outputsAt(0).type()
        out.setType(kind.with_sizes([None] * len(kind.sizes())))
        return out
    return where(g, mask, g.op("Cast", value, to_i=values.scalar_type(self).onnx_type()), self)


def _led(sizes: list[Any], by: list[Any]) -> list[Any]:
    """Sizes with ones in front, as many as another has."""
    return [1] * (len(by) - len(sizes)) + sizes


def index_put(g: Any, self: Any, indices: Any, new: Any, accumulate: Any = False) -> Any:
    """`x[mask] = value`, one value for every place, as `Where`.

    The exporter's own scatters through `NonZero`: a value of several elements is then taken for one
    a place, and its gradient is lost.
    """
    helper = values.helper()
    masks = helper._unpack_list(indices) if helper._is_packed_list(indices) else [indices]
    ranks = [helper._get_tensor_rank(v) for v in (self, masks[0], new)]
    if (
        len(masks) != 1
        or not values.is_bool(masks[0])
        or None in ranks
        or ranks[2] > ranks[0] - ranks[1]
        or helper._maybe_get_const(accumulate, "b")
    ):
        opset11 = importlib.import_module(
            "torch.onnx._internal.torchscript_exporter.symbolic_opset11"
        )
        return opset11.index_put(g, self, indices, new, accumulate)
    mask = masks[0]
    if ranks[0] > ranks[1]:
        mask = helper._unsqueeze_helper(g, mask, list(range(ranks[1], ranks[0])))
        mask.setType(masks[0].type().with_sizes([None] * ranks[0]))
    if values.scalar_type(new).name != values.scalar_type(self).name:
        new = g.op("Cast", new, to_i=values.scalar_type(self).onnx_type())
    return where(g, mask, new, self)


def gather(g: Any, self: Any, dim: Any, index: Any, sparse_grad: Any = None) -> Any:
    """`gather` whose negative indices are out of bounds, as in PyTorch."""
    opset11 = importlib.import_module("torch.onnx._internal.torchscript_exporter.symbolic_opset11")
    return opset11.gather(g, self, dim, values.from_zero(g, index), sparse_grad)


def one_hot(g: Any, self: Any, classes: Any) -> Any:
    """`one_hot` that stops at what is not a class, where ONNX makes a row of zeros."""
    import torch

    opset9 = importlib.import_module("torch.onnx._internal.torchscript_exporter.symbolic_opset9")
    helper = values.helper()
    number = helper._maybe_get_const(classes, "t")
    if helper._is_value(number):
        number = g.op("Reshape", classes, values.constant(g, [], torch.int64))
    else:
        number = values.constant(g, int(number), torch.int64)
    zero, one = (values.constant(g, v, torch.int64) for v in (0, 1))
    known = g.op("Gather", g.op("Range", zero, number, one), values.from_zero(g, self))
    known.setType(self.type())
    return opset9.one_hot(g, known, classes)


def detach(g: Any, self: Any) -> Any:
    """`detach` as a cut, where the exporter writes nothing and the gradient flows.

    Through integers it flows as well, if numbers were cast to them.
    """
    cast = self.node().kind() == "onnx::Cast" and values.is_floating(self.node().input())
    return cut(g, self) if cast or values.is_floating(self) else self


def index_add(g: Any, self: Any, dim: Any, index: Any, source: Any, alpha: Any = None) -> Any:
    """`index_add` by `ScatterElements` that adds; the exporter's keeps one of equal indices."""
    import torch

    opset16 = importlib.import_module("torch.onnx._internal.torchscript_exporter.symbolic_opset16")
    helper = values.helper()
    dim, rank = helper._maybe_get_const(dim, "i"), helper._get_tensor_rank(self)
    if values.given(alpha) and helper._maybe_get_const(alpha, "f") != 1:
        return helper._unimplemented("index_add", "alpha other than 1")
    shape = [1] * rank
    shape[dim] = -1
    spread = g.op("Reshape", index, values.constant(g, shape, torch.int64))
    spread = g.op("Expand", spread, g.op("Shape", source))
    return opset16.scatter_add(g, self, dim % rank, spread, source)


def index_copy(g: Any, self: Any, dim: Any, index: Any, source: Any) -> Any:
    """`index_copy` by `ScatterElements`; the exporter's shape of the index cannot be inferred."""
    import torch

    helper = values.helper()
    rank = helper._get_tensor_rank(self)
    dim = helper._maybe_get_const(dim, "i") % rank
    shape = [1] * rank
    shape[dim] = -1
    spread = g.op("Reshape", index, values.constant(g, shape, torch.int64))
    spread = g.op("Expand", spread, g.op("Shape", source))
    return g.op("ScatterElements", self, spread, source, axis_i=dim)


def eye(g: Any, rows: Any, columns: Any, *rest: Any) -> Any:
    """`eye`, also in place of a tensor (`out`), which the exporter refuses."""
    if len(rest) != 1:
        opset9 = importlib.import_module(
            "torch.onnx._internal.torchscript_exporter.symbolic_opset9"
        )
        return opset9.eye(g, rows, columns, *rest)
    helper = values.helper()
    shape = [helper._unsqueeze_helper(g, size, [0]) for size in (rows, columns)]
    kind = values.scalar_type(rest[0]).onnx_type()
    zeros = g.op("ConstantOfShape", g.op("Concat", *shape, axis_i=0))
    return g.op("Cast", g.op("EyeLike", zeros), to_i=kind)


def diagonal(g: Any, self: Any, offset: Any, dim1: Any, dim2: Any) -> Any:
    """`diagonal` as `Gather` of a flat matrix; the exporter's overruns the heap if not square."""
    import torch

    helper = values.helper()
    rank = helper._get_tensor_rank(self)
    offset, *dims = (helper._maybe_get_const(v, "i") for v in (offset, dim1, dim2))
    rows, columns = (d % rank for d in dims)
    kept = [d for d in range(rank) if d not in (rows, columns)]
    moved = g.op("Transpose", self, perm_i=[*kept, rows, columns])
    zero, one = (values.constant(g, v, torch.int64) for v in (0, 1))
    height, width = (
        g.op("Gather", g.op("Shape", self), values.constant(g, d, torch.int64))
        for d in (rows, columns)
    )
    skipped = (
        values.constant(g, max(-offset, 0), torch.int64),
        values.constant(g, max(offset, 0), torch.int64),
    )
    number = g.op("Min", g.op("Sub", height, skipped[0]), g.op("Sub", width, skipped[1]))
    steps = g.op("Range", zero, g.op("Max", number, zero), one)
    first = g.op("Add", g.op("Mul", skipped[0], width), skipped[1])
    places = g.op("Add", g.op("Mul", steps, g.op("Add", width, one)), first)
    flat = g.op("Reshape", moved, values.constant(g, [*[0] * len(kept), -1], torch.int64))
    return g.op("Gather", flat, places, axis_i=len(kept))
