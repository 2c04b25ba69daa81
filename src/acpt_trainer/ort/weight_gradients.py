"""The gradients of large weights on a CPU: PyTorch's matrix product instead of ONNX Runtime's.

The gradient of a weight is X^T dY, a third of the products of a step. ONNX Runtime's product is as
fast as PyTorch's, but not where the left side is transposed (`benchmarks/ort_products.py`). So
these nodes call PyTorch, in the middle of the graph. Where the weight is an embedding as well
(`tie_word_embeddings`), the rows that were looked up are added to it in the same memory.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch

from acpt_trainer.ort import reused, torch_calls
from acpt_trainer.ort.passes import run_after_gradients

OPERATOR = "acpt_weight_gradient"

SMALLEST = 2**16
"""Elements of a weight below which a call of Python costs more than it saves."""


def use_torch(stack: ExitStack) -> None:
    """Lets training graphs compute them with PyTorch until the stack is closed."""
    stack.callback(reused.clear)
    run_after_gradients(stack, rewrite)


def rewrite(graph: Any) -> None:
    """Replaces the products in a training graph, an `onnx.GraphProto`."""
    sizes = {
        value.name: [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    readers: dict[str, list[Any]] = collections.defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    made_by = {name: node for node in graph.node for name in node.output}
    wanted = {value.name for value in graph.output}
    found = False
    for product in [n for n in graph.node if _transposes_left(n)]:
        left, right = product.input
        name, gone = product.output[0], [product]
        after = _only(readers[name], "Transpose")
        if name not in wanted and after is not None:
            left, right = right, left  # (X^T dY)^T = dY^T X
            name, gone = after.output[0], [product, after]
        inputs = [left, right]
        total = _only(readers[name], "Sum")
        if name not in wanted and total is not None:
            others = [other for other in total.input if other != name]
            looked_up = [made_by[other] for other in others if other in made_by]
            if len(looked_up) == len(others) and all(_of_rows(n, readers) for n in looked_up):
                inputs += [taken for node in looked_up for taken in node.input[1:]]
                name, gone = total.output[0], [*gone, total, *looked_up]
        if name not in wanted or math.prod(sizes.get(_weight(name), [0])) < SMALLEST:
            continue
        for node in gone:
            graph.node.remove(node)
        graph.node.append(torch_calls.node(OPERATOR, inputs, name))
        found = True
    if found:
        torch_calls.engage(OPERATOR, weight_gradient)


def weight_gradient(
    left: torch.Tensor, right: torch.Tensor, *looked_up: torch.Tensor
) -> torch.Tensor:
    """Computes left^T right, and adds to its rows what embeddings got.

    Args:
        left: One row a token.
        right: The same.
        looked_up: For each embedding whose weight this is as well, the numbers of the rows that it
            looked up and the gradients of those.
    """
    shape = (left.shape[1], right.shape[1])
    out = reused.empty(shape, shape, left)
    torch.mm(left.t(), right, out=out)
    for index, rows in zip(looked_up[::2], looked_up[1::2], strict=True):
        out.index_add_(0, index.reshape(-1), rows.reshape(-1, rows.shape[-1]))
    return out


def _transposes_left(node: Any) -> bool:
    if node.op_type != "Gemm" or len(node.input) != 2:
        return False
    stated = {a.name: a for a in node.attribute}
    return (
        "transA" in stated
        and stated["transA"].i == 1
        and ("transB" not in stated or stated["transB"].i == 0)
        and ("alpha" not in stated or stated["alpha"].f == 1.0)
    )


def _of_rows(node: Any, readers: Mapping[str, list[Any]]) -> bool:
    rows = node.op_type == "GatherGrad" and all(a.i == 0 for a in node.attribute)
    return rows and len(readers[node.output[0]]) == 1


def _only(readers: list[Any], operator: str) -> Any:
    """The one reader of a value, if it is of a kind."""
    return readers[0] if len(readers) == 1 and readers[0].op_type == operator else None


def _weight(gradient: str) -> str:
    """The name of the weight: the gradient's own shape is not always told."""
    return gradient.removesuffix("_grad")
