"""Gradients made of vectorized operators against ONNX Runtime's own CPU kernels of them.

For each operator, both are run on the same numbers, in turn in one process, after their results
were compared.

Usage: ort_kernels.py --output results/ort_kernels.json [--turns 15]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from output import keep

from acpt_trainer.measure.machine import cpu
from acpt_trainer.ort import patches
from acpt_trainer.ort.gradients import FASTER_ON_CPU, Node

KERNELS: dict[str, tuple[str, tuple[str, ...], tuple[int, int]]] = {
    # By key: the kernel that computes the gradient, its inputs, and a shape as in GPT-2 124M.
    "com.microsoft::FastGelu": ("FastGeluGrad", ("GO(0)", "I(0)"), (512, 3072)),
    "com.microsoft::Gelu": ("GeluGrad", ("GO(0)", "I(0)"), (512, 3072)),
    "::LogSoftmax": ("LogSoftmaxGrad_13", ("GO(0)", "O(0)"), (512, 50257)),
}
ENDS = ("GO(0)", "I(0)", "O(0)")


def session(nodes: Sequence[Any], inputs: Sequence[str], output: str) -> Any:
    """A graph that ONNX Runtime runs as training does."""
    import onnxruntime
    from onnx import TensorProto, helper

    def value(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)

    graph = helper.make_graph(nodes, "graph", [value(i) for i in inputs], [value(output)])
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = psutil.cpu_count(logical=False)
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def node(definition: Node) -> Any:
    """A node of a definition as ONNX has it."""
    from onnx import helper, numpy_helper

    operator, inputs, outputs, *rest = definition
    attributes: dict[str, Any] = {}
    for name, stated in (rest[0] if rest else {}).items():
        found = stated["value"]
        if stated.get("is_tensor"):
            kind = np.int64 if stated["dtype"] == "int" else np.float32
            found = numpy_helper.from_array(np.array(found, kind))
        attributes[name] = found
    return helper.make_node(operator, inputs, outputs, **attributes)


def output_of(key: str, feed: dict[str, np.ndarray]) -> np.ndarray:
    """What the operator itself computes."""
    from onnx import helper

    domain, name = key.split("::")
    # Training has an axis where there is one; the last is the default of LogSoftmax.
    own = helper.make_node(name, ["I(0)"], ["O(0)"], domain=domain)
    return session([own], ["I(0)"], "O(0)").run(None, {"I(0)": feed["I(0)"]})[0]


def measured(key: str, turns: int) -> dict[str, Any]:
    """Seconds of both, and how far their results are apart."""
    from onnx import helper

    kernel, given, shape = KERNELS[key]
    random = np.random.default_rng(0)
    feed = {name: random.standard_normal(shape, np.float32) for name in ("GO(0)", "I(0)")}
    feed["O(0)"] = output_of(key, feed)
    axis = {"axis": 1} if "Softmax" in kernel else {}
    own = helper.make_node(kernel, given, ["GI(0)"], domain="com.microsoft", **axis)
    nodes = [node(definition) for definition in FASTER_ON_CPU[key]]
    used = [end for end in ENDS if any(end in n.input for n in nodes)]
    runs = {
        "kernel": (session([own], given, "GI(0)"), given),
        "composed": (session(nodes, used, "GI(0)"), used),
    }

    def run(way: str) -> np.ndarray:
        graph, names = runs[way]
        return graph.run(None, {name: feed[name] for name in names})[0]

    first, second = run("kernel"), run("composed")
    difference = np.linalg.norm(first - second) / np.linalg.norm(first)
    seconds: dict[str, list[float]] = {way: [] for way in runs}
    for turn in range(turns):
        for way in sorted(runs, reverse=turn % 2 == 1):
            started = time.perf_counter()
            run(way)
            seconds[way].append(time.perf_counter() - started)
    medians = {way: statistics.median(found) for way, found in seconds.items()}
    return {
        "kernel": kernel,
        "shape": list(shape),
        "milliseconds": {way: round(1000 * s, 2) for way, s in medians.items()},
        "kernel_over_composed": round(medians["kernel"] / medians["composed"], 2),
        "difference": float(f"{difference:.1e}"),
    }


def main() -> None:
    """Measures and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    patches.start()
    result = {
        "gradients": {key: measured(key, args.turns) for key in KERNELS},
        "machine": f"{psutil.cpu_count(logical=False)} threads, CPU: {cpu()['model']}",
        "versions": {
            name: importlib.metadata.version(name) for name in ("torch", "onnxruntime-training-cpu")
        },
    }
    keep(result, args.output)


if __name__ == "__main__":
    main()
