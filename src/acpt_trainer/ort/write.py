"""A training graph written to a folder: the graph for viewers, what it holds for readers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from acpt_trainer.errors import NotEngagedError
from acpt_trainer.ort.forward import OrtForward
from acpt_trainer.ort.graph import forward_nodes

NAME = "training_graph"
FILES = (f"{NAME}.onnx", f"{NAME}.json", f"{NAME}.md")


def write_graph(forward: OrtForward, folder: Path) -> dict[str, Any]:
    """Writes the newest training graph and what it holds into a folder.

    `training_graph.onnx` is the graph that runs, forward and backward, as ONNX Runtime optimized
    it. Weights are its inputs and are not written.

    Args:
        forward: What `attach` returned, after a training step.
        folder: Where to write; made if it is not there, and files of the same names are replaced.

    Returns:
        What `training_graph.json` holds.

    Raises:
        NotEngagedError: If no graph was built yet.
        OSError: If a file cannot be written.
    """
    if not forward.graphs:
        raise NotEngagedError(
            f"ONNX Runtime built no training graph of {type(forward.model).__name__} yet.\n"
            "    where: write_graph\n"
            "    fix:   run a training step first: model.train(), then model(...)"
        )
    module = next(reversed(forward.graphs.values())).module
    graph = module._torch_module._execution_manager(True)._onnx_models.optimized_model
    found = described(forward, graph)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILES[0]).write_bytes(graph.SerializeToString())
    (folder / FILES[1]).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    (folder / FILES[2]).write_text(_page(found), encoding="utf-8")
    return found


def described(forward: OrtForward, graph: Any) -> dict[str, Any]:
    """What a training graph holds, and what it took to make it."""
    newest = next(reversed(forward.graphs.values()))
    parameters = list(forward.model.parameters())
    ahead = len(forward_nodes(graph))
    return {
        "model": type(forward.model).__name__,
        "parameters": sum(p.numel() for p in parameters),
        "trained_parameters": sum(p.numel() for p in parameters if p.requires_grad),
        **(newest.summary.to_dict() if newest.summary is not None else {}),
        "forward_nodes": ahead,
        "backward_nodes": len(graph.graph.node) - ahead,
        "operators": dict(Counter(node.op_type for node in graph.graph.node).most_common()),
        "shapes_of_inputs": [list(shape) for shape in newest.shapes],
        "graphs": len(forward.graphs),
        "re_exports": list(forward.re_exports),
        "cache": newest.cache_use,
    }


def _page(found: dict[str, Any]) -> str:
    def counted(counts: dict[str, int]) -> str:
        return ", ".join(f"{name} x{count}" for name, count in counts.items()) or "none"

    share = found["forward_nodes"] / max(1, found["nodes"])
    rows = {
        "parameters": f"{found['parameters']:,}, trained: {found['trained_parameters']:,}",
        "nodes": f"{found['nodes']}: forward {found['forward_nodes']} ({share:.0%}), "
        f"backward {found['backward_nodes']} ({1 - share:.0%})",
        "fused operators": counted(found["fused_ops"]),
        "operators run by PyTorch (ATen)": counted(found["aten_ops"]),
        "custom autograd functions": found["python_ops"],
        "dropout nodes": found["dropout_ops"],
        "computed by PyTorch after the graph": ", ".join(found["after_graph"]) or "none",
        "memory of weights, 10^6 bytes": found["weights_mb"],
        "memory kept for the backward half": found["activations_mb"],
        "seconds to export": found["export_seconds"],
        "seconds to build": found["build_seconds"],
        "graphs": found["graphs"],
        "exported again since": "; ".join(found["re_exports"]) or "never",
        "cache": found["cache"],
    }
    lines = [f"# Training graph of {found['model']}", "", "| what | here |", "| --- | --- |"]
    lines += [f"| {what} | {here} |" for what, here in rows.items()]
    lines += ["", "## Operators", "", "| operator | nodes |", "| --- | --- |"]
    lines += [f"| `{name}` | {count} |" for name, count in found["operators"].items()]
    return "\n".join(lines) + "\n"
