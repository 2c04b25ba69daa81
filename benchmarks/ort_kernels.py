"""PyTorch's kernels of gradients against ONNX Runtime's on a CPU.

For each gradient that `acpt_trainer.ort.torch_gradients` takes over, both are run on the same
numbers, in turn in one process, after their results were compared.

Usage: ort_kernels.py --output results/ort_kernels.json [--turns 15]
"""

from __future__ import annotations

import argparse
import importlib.metadata
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from output import keep

from acpt_trainer.measure.machine import cpu
from acpt_trainer.ort import patches, threads
from acpt_trainer.ort.torch_gradients import KERNELS

Inputs = tuple[torch.Tensor, ...]


def of_values(*shape: int) -> Inputs:
    """A gradient, and what the operator was given."""
    return torch.randn(shape), torch.randn(shape)


def of_softmax(function: Callable[..., torch.Tensor], *shape: int) -> Inputs:
    """A gradient, and what the operator returned."""
    return torch.randn(shape), function(torch.randn(shape), -1)


def of_layer_norm(rows: int, width: int) -> Inputs:
    """A gradient, the input, the weight, and each row's mean and rate."""
    x, weight = torch.randn(rows, width), torch.randn(width)
    _, mean, rate = torch.native_layer_norm(x, [width], weight, None, 1e-5)
    return torch.randn(rows, width), x, weight, mean, rate


def of_look_up(rows: int, width: int, number: int) -> Inputs:
    """The shape of a table, which rows of it were looked up, and their gradient."""
    index = torch.randint(0, rows, (number,))
    return torch.tensor([rows, width]), index, torch.randn(number, width)


def of_gather(rows: int, length: int, width: int) -> Inputs:
    """A gradient, the shape of what was picked from, and which places: as in DeBERTa."""
    index = torch.randint(0, width, (length, length)).expand(rows, length, length).contiguous()
    return torch.randn(index.shape), torch.tensor([rows, length, width]), index


# As in GPT-2 124M with 2 x 256 tokens, RoBERTa's positions and DeBERTa's of 4 heads with 8 x 128.
CASES: dict[str, tuple[Inputs, dict[str, int]]] = {
    "GeluGrad": (of_values(512, 3072), {}),
    "FastGeluGrad": (of_values(512, 3072), {}),
    "LayerNormalizationGrad": (of_layer_norm(512, 768), {"axis": -1}),
    "SoftmaxGrad_13": (of_softmax(torch.softmax, 24, 256, 256), {"axis": -1}),
    "LogSoftmaxGrad_13": (of_softmax(torch.log_softmax, 512, 50257), {"axis": -1}),
    "GatherGrad": (of_look_up(514, 256, 1024), {"axis": 0}),
    "GatherElementsGrad": (of_gather(32, 128, 256), {"axis": -1}),
}


def kernel(name: str, inputs: Inputs, axis: dict[str, int]) -> Callable[[], list[Any]]:
    """A graph of one node, which ONNX Runtime runs as training does."""
    import onnxruntime
    from onnx import TensorProto, helper

    kinds = {torch.float32: TensorProto.FLOAT, torch.int64: TensorProto.INT64}
    names = [f"input_{i}" for i in range(len(inputs))]
    outputs = [f"output_{i}" for i in range(3 if name.startswith("LayerNorm") else 1)]
    values = [
        helper.make_tensor_value_info(n, kinds[t.dtype], None)
        for n, t in zip(names, inputs, strict=True)
    ]
    results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
    node = helper.make_node(name, names, outputs, domain="com.microsoft", **axis)
    graph = helper.make_graph([node], "graph", values, results)
    domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    feed = {n: t.numpy() for n, t in zip(names, inputs, strict=True)}
    return lambda: session.run(None, feed)


def measured(name: str, turns: int) -> dict[str, Any]:
    """Seconds of both, and how far their results are apart."""
    inputs, axis = CASES[name]
    runs: dict[str, Callable[[], Any]] = {
        "onnxruntime": kernel(name, inputs, axis),
        "torch": lambda: KERNELS[name](*inputs, **axis),
    }
    theirs = [torch.from_numpy(value) for value in runs["onnxruntime"]()]
    ours = runs["torch"]()
    pairs = zip(theirs, (ours,) if torch.is_tensor(ours) else ours, strict=True)
    difference = max(((a - b).norm() / a.norm()).item() for a, b in pairs)
    seconds: dict[str, list[float]] = {way: [] for way in runs}
    for turn in range(turns):
        for way in sorted(runs, reverse=turn % 2 == 1):
            threads.end_pytorchs()
            started = time.perf_counter()
            runs[way]()
            seconds[way].append(time.perf_counter() - started)
    medians = {way: statistics.median(found) for way, found in seconds.items()}
    return {
        "shape": list(inputs[-1 if name == "GatherGrad" else 0].shape),
        "milliseconds": {way: round(1000 * s, 2) for way, s in medians.items()},
        "onnxruntime_over_torch": round(medians["onnxruntime"] / medians["torch"], 2),
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
        "gradients": {name: measured(name, args.turns) for name in KERNELS},
        "machine": f"{torch.get_num_threads()} threads, CPU: {cpu()['model']}",
        "versions": {
            name: importlib.metadata.version(name) for name in ("torch", "onnxruntime-training-cpu")
        },
    }
    keep(result, args.output)


if __name__ == "__main__":
    main()
