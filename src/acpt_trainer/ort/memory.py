"""How much memory a training graph holds: weights, and what the backward half needs again.

Counted from the shapes in the graph and the sizes of a batch; nothing is measured, and no step
pays for it.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from acpt_trainer.ort.backward import PREFIX, kept


@dataclass(frozen=True)
class Held:
    """What a training graph holds in memory, in 10^6 bytes.

    Attributes:
        weights_mb: The model's parameters and buffers that the graph takes, and its constants.
        activations_mb: What the forward half computes and keeps until its backward half has run.
        activations_unsized: Activations that are kept and not counted: the graph does not tell
            their sizes.
    """

    weights_mb: float
    activations_mb: float
    activations_unsized: int

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data for a report."""
        return asdict(self)


def held(graph: Any, shapes: Sequence[Sequence[int]], running: Any = None) -> Held:
    """Counts what a training graph holds with a batch.

    Args:
        graph: The `onnx.ModelProto` of the training graph.
        shapes: The shapes of the call's tensors, in their order.
        running: The graph that ONNX Runtime made of it, where it is known (with recompute).
    """
    inputs = {given.name: given for given in graph.graph.input}
    sizes = _sizes(inputs, shapes)
    weights = sum(
        _bytes(t, sizes) or 0 for name, t in inputs.items() if name.startswith(PREFIX)
    ) + sum(_width(t.data_type) * math.prod(t.dims) for t in graph.graph.initializer)
    known = {t.name: t for t in (*graph.graph.value_info, *graph.graph.output)}
    if running is not None:
        graph = running
        known |= {t.name: t for t in graph.graph.value_info}
    counted = [_bytes(known[n], sizes) if n in known else None for n in kept(graph)]
    return Held(
        round(weights / 1e6, 6),
        round(sum(c for c in counted if c is not None) / 1e6, 6),
        counted.count(None),
    )


def _sizes(inputs: Mapping[str, Any], shapes: Iterable[Sequence[int]]) -> dict[str, int]:
    """The numbers that the names of sizes in a graph stand for."""
    sizes = {}
    for index, shape in enumerate(shapes):
        if (given := inputs.get(f"tensors_{index}")) is not None:
            for dim, size in zip(given.type.tensor_type.shape.dim, shape, strict=True):
                if dim.dim_param:
                    sizes[dim.dim_param] = int(size)
    return sizes


def _bytes(value: Any, sizes: Mapping[str, int]) -> int | None:
    """The bytes of a tensor; None where the graph does not tell."""
    kind = value.type.tensor_type
    if not kind.elem_type or not kind.HasField("shape"):
        return None
    dims = [_size(dim, sizes) for dim in kind.shape.dim]
    if None in dims:
        return None
    return _width(kind.elem_type) * math.prod(d for d in dims if d is not None)


def _size(dim: Any, sizes: Mapping[str, int]) -> int | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    if dim.dim_param in sizes:
        return sizes[dim.dim_param]
    # ONNX Runtime's shape inference writes sizes as expressions of this library.
    sympy: Any = importlib.import_module("sympy")
    try:
        found = sympy.sympify(dim.dim_param).subs(sizes)
    except (sympy.SympifyError, AttributeError, NameError, TypeError):
        return None  # a name that is no expression
    return int(found) if found.is_Integer else None


def _width(element: int) -> int:
    from onnx import helper

    return int(helper.tensor_dtype_to_np_dtype(element).itemsize)
