"""Products that the exporter has no form for, or none with a gradient."""

from __future__ import annotations

import importlib
import string
from typing import Any

from acpt_trainer.ort.symbolics import values


def einsum(g: Any, equation: Any, operands: Any, path: Any = None) -> Any:
    """`einsum` of two, with letters for the dots: ORTModule's has a gradient without dots only."""
    ortmodule = importlib.import_module(
        "onnxruntime.training.ortmodule._custom_op_symbolic_registry"
    )
    helper = values.helper()
    ranks = [helper._get_tensor_rank(operand) for operand in helper._unpack_list(operands)]
    text = helper._maybe_get_const(equation, "s").replace(" ", "")
    spelled = without_dots(text, ranks)
    terms = [set(term) for term in spelled.partition("->")[0].split(",")]
    if any(
        not term & set().union(*terms[:i], *terms[i + 1 :]) for i, term in enumerate(terms[1:], 1)
    ):
        return helper._unimplemented("einsum", "operands without a common index")
    return ortmodule.einsum_internal(g, spelled, operands)


def without_dots(equation: str, ranks: list[int | None]) -> str:
    """The same equation with a letter for each axis that its dots stand for.

    Args:
        equation: Of `torch.einsum`, without spaces.
        ranks: Of its operands.
    """
    taken, arrow, made = equation.partition("->")
    if "..." not in taken or not arrow or None in ranks:
        return equation
    letters = [c for c in string.ascii_letters if c not in equation]
    known = [rank or 0 for rank in ranks]
    terms = list(zip(taken.split(","), known, strict=True))
    counts = [rank - len(term) + len("...") for term, rank in terms if "..." in term]
    spelled = letters[: max(counts)]

    def with_letters(term: str, count: int) -> str:
        return term.replace("...", "".join(spelled[len(spelled) - count :]))

    operands = [with_letters(term, rank - len(term) + len("...")) for term, rank in terms]
    return f"{','.join(operands)}->{with_letters(made, len(spelled))}"


def kron(g: Any, self: Any, other: Any) -> Any:
    """The Kronecker product: each number of one times the whole other."""
    import torch

    helper = values.helper()
    ranks = [helper._get_tensor_rank(t) for t in (self, other)]
    rank = max(ranks)
    padded = [
        helper._unsqueeze_helper(g, t, list(range(rank - r))) if rank > r else t
        for t, r in zip((self, other), ranks, strict=True)
    ]
    sizes = g.op("Mul", *(g.op("Shape", t) for t in padded))
    apart = [
        g.op("Unsqueeze", t, values.constant(g, [2 * i + first for i in range(rank)], torch.int64))
        for t, first in zip(padded, (1, 0), strict=True)
    ]
    return g.op("Reshape", g.op("Mul", *apart), sizes)


def matmul(g: Any, self: Any, other: Any) -> Any:
    """`matmul` of a vector as that of a matrix of one row or column; its gradient is a matrix's."""
    helper = values.helper()
    ranks = [helper._get_tensor_rank(v) for v in (self, other)]
    left = helper._unsqueeze_helper(g, self, [0]) if ranks[0] == 1 else self
    right = helper._unsqueeze_helper(g, other, [1]) if ranks[1] == 1 else other
    out = g.op("MatMul", left, right)
    gone = [axis for axis, rank in ((-2, ranks[0]), (-1, ranks[1])) if rank == 1]
    return helper._squeeze_helper(g, out, gone) if gone else out
