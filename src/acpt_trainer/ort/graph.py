"""Evidence read from an ONNX training graph: how many nodes, which are fused, which foreign."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from acpt_trainer.ort import dropout

# Operators that stand for several of the exported ones.
_FUSED_DOMAIN = "com.microsoft"


@dataclass(frozen=True)
class GraphSummary:
    """What a training graph consists of.

    Attributes:
        nodes: Number of nodes, forward and backward.
        fused_ops: Contributed and fused operators and how often each occurs.
        aten_ops: Operators that run in PyTorch through the ATen executor.
        python_ops: Custom autograd functions that run in Python.
        dropout_ops: Number of nodes that draw masks of dropout, ours and ONNX Runtime's, and of the
            latter's gradients.
        after_graph: Functions that PyTorch computes from the graph's outputs.
        export_seconds: Seconds to export the model to ONNX.
        build_seconds: Seconds to build the gradient graph and the session.
        weights_mb: Memory of the parameters, buffers and constants that the graph takes, in 10^6
            bytes; see `memory`.
        activations_mb: Memory of what the forward half keeps for the backward half of the first
            batch.
        activations_unsized: Kept tensors that are not counted, since the graph has no sizes.
    """

    nodes: int
    fused_ops: dict[str, int] = field(default_factory=dict)
    aten_ops: dict[str, int] = field(default_factory=dict)
    python_ops: int = 0
    dropout_ops: int = 0
    after_graph: list[str] = field(default_factory=list)
    export_seconds: float = 0.0
    build_seconds: float = 0.0
    weights_mb: float = 0.0
    activations_mb: float = 0.0
    activations_unsized: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain data for a report."""
        return asdict(self)


def summarize(model: Any, export_seconds: float = 0.0, build_seconds: float = 0.0) -> GraphSummary:
    """Counts what a training graph consists of.

    Args:
        model: The `onnx.ModelProto` of the optimized gradient graph.
        export_seconds: Seconds to export the model.
        build_seconds: Seconds to build graph and session.

    Returns:
        The summary.
    """
    fused: Counter[str] = Counter()
    aten: Counter[str] = Counter()
    python_ops = dropout_ops = 0
    for node in model.graph.node:
        if node.op_type == "ATen":
            named = (a.s.decode() for a in node.attribute if a.name == "operator")
            operator = next(named, "unnamed")
            aten[operator] += 1
            dropout_ops += operator == dropout.OPERATOR
        elif node.op_type.startswith("PythonOp"):
            python_ops += 1
        elif node.domain == _FUSED_DOMAIN:
            fused[node.op_type] += 1
        if "Dropout" in node.op_type:
            dropout_ops += 1
    return GraphSummary(
        nodes=len(model.graph.node),
        fused_ops=dict(sorted(fused.items())),
        aten_ops=dict(sorted(aten.items())),
        python_ops=python_ops,
        dropout_ops=dropout_ops,
        export_seconds=round(export_seconds, 3),
        build_seconds=round(build_seconds, 3),
    )


def forward_nodes(model: Any) -> set[int]:
    """Indices of the nodes that the outputs need: those that the yield to PyTorch depends on."""
    nodes = model.graph.node
    makers = {name: index for index, node in enumerate(nodes) for name in node.output if name}
    waiting = [index for index, node in enumerate(nodes) if node.op_type == "YieldOp"]
    seen: set[int] = set()
    while waiting:
        for name in nodes[waiting.pop()].input:
            index = makers.get(name)
            if index is not None and index not in seen:
                seen.add(index)
                waiting.append(index)
    return seen
