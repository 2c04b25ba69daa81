"""Gradients of recurrence are computed whole: of one that leaves some out, the process dies."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from acpt_trainer.ort.passes import run_after_gradients

# Of what the gradients are, in their order; those of peepholes come last and are never asked for.
_OUTPUTS = {"LSTMGrad": ("X", "W", "R", "B", "H", "C"), "GRUGrad": ("X", "W", "R", "B", "H")}


def mend_recurrences(stack: ExitStack) -> None:
    """Has what is frozen its gradient computed all the same, and not used."""
    run_after_gradients(stack, fill)


def fill(graph: Any) -> None:
    """Names what a gradient of recurrence leaves out (of an `onnx.GraphProto`, in place)."""
    for node in graph.node:
        for i, of in enumerate(_OUTPUTS.get(node.op_type, ())):
            if i == len(node.output):
                node.output.append("")
            if not node.output[i]:
                node.output[i] = f"{node.name}/unused_{of}"
