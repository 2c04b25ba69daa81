"""Where a value that Python reads while a model is traced comes from, and whether it matters."""

from __future__ import annotations

import ast
import enum
import functools
import linecache
from types import CodeType, FrameType
from typing import Any

# Their values depend on the shapes of their inputs alone.
_OF_SHAPES = frozenset(
    f"aten::{name}"
    for name in (
        "size", "numel", "dim", "sym_size", "zeros_like", "ones_like", "full_like", "empty_like",
        "new_zeros", "new_ones", "new_full", "new_empty",
    )
)  # fmt: skip


class Origin(enum.IntEnum):
    """Where a value comes from, the worst of its ancestors."""

    CONSTANT = 0
    SHAPE = 1
    RANDOM = 2
    DATA = 3


def origin(value: Any) -> Origin:
    """Where a value of the traced graph comes from."""
    worst = Origin.CONSTANT
    seen: set[int] = set()  # by number: names change while the graph grows
    stack = [value]
    while stack and worst is not Origin.DATA:
        current = stack.pop()
        if current.unique() in seen:
            continue
        seen.add(current.unique())
        node = current.node()
        kind = node.kind()
        if kind == "prim::Param":
            worst = Origin.DATA
        elif kind in _OF_SHAPES:
            worst = max(worst, Origin.SHAPE)
        else:
            if node.isNondeterministic() or kind.startswith("aten::rand"):
                worst = max(worst, Origin.RANDOM)
            stack.extend(node.inputs())
    return worst


def settled(node: Any) -> bool:
    """Whether a comparison has one outcome only: a number from [0, 1) is never below 0.

    Models draw one to skip a layer with `rand() < layerdrop`, with a layerdrop of 0 too, and PEFT
    to keep an adapter with `rand() > module_dropout`. That may be equal, once in 16 million draws.
    """
    inputs = list(node.inputs())
    if node.kind() not in ("aten::lt", "aten::gt") or inputs[0].node().kind() not in (
        "aten::rand",
        "aten::uniform_",
    ):
        return False
    bound = inputs[1].toIValue()
    return bound is not None and float(bound) <= 0


def only_raises(frame: FrameType) -> bool:
    """Whether the running expression is the test of an `if` that only raises, or an `assert`."""
    return _in_a_check(frame.f_code, frame.f_lasti)


@functools.lru_cache(maxsize=1024)
def _in_a_check(code: CodeType, instruction: int) -> bool:
    if code.co_name == "<lambda>":  # it may stand in a test without being part of it
        return False
    line, last, column, end = _position(code, instruction)
    node: Any
    for node in ast.walk(_parsed(code.co_filename)):
        if isinstance(node, ast.If):
            only = len(node.body) == 1 and isinstance(node.body[0], ast.Raise) and not node.orelse
        else:
            only = isinstance(node, ast.Assert)
        if not only:
            continue
        # Python gives the last jump of a test the place of the whole statement.
        whole = (node.lineno, node.end_lineno, node.col_offset, node.end_col_offset)
        if whole == (line, last, column, end) or _spans(node.test, line, column):
            return True
    return False


def _position(code: CodeType, instruction: int) -> tuple[int | None, ...]:
    return list(code.co_positions())[instruction // 2]


def _spans(node: ast.expr, line: int | None, column: int | None) -> bool:
    if line is None or column is None:
        return False
    start = (node.lineno, node.col_offset)
    end = (node.end_lineno or line, node.end_col_offset or column)
    return start <= (line, column) <= end


@functools.lru_cache(maxsize=16)
def _parsed(file: str) -> ast.Module:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:  # a notebook's cell with commands in it
        return ast.Module([], [])
