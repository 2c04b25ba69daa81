"""Products that the exporter has no form for, or none with a gradient: `einsum`, `kron`."""

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
    return ortmodule.einsum_internal(g, without_dots(text, ranks), operands)


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
