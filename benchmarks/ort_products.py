"""The gradients of GPT-2 124M's weights: ONNX Runtime's matrix product against PyTorch's.

For each shape both are run on the same numbers, in turn in one process and on one thread; the time
is the processor's, so that a busy machine counts little.

Usage: ort_products.py [--turns 9]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from acpt_trainer.ort import patches

SHAPES = {  # tokens, rows of the gradient, its columns
    "qkv": (512, 768, 2304),
    "projection": (512, 768, 768),
    "feed forward, in": (512, 768, 3072),
    "feed forward, out": (512, 3072, 768),
    "head": (512, 50257, 768),
}


def of_onnxruntime(left: np.ndarray, right: np.ndarray) -> Callable[[], Any]:
    """Its product as training graphs had it: a `Gemm` with a transposed left side."""
    import onnxruntime
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("a", "b", "y")]
    node = helper.make_node("Gemm", ["a", "b"], ["y"], transA=1)
    graph = helper.make_graph([node], "graph", values[:2], values[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    binding = session.io_binding()
    out = np.empty((left.shape[1], right.shape[1]), np.float32)
    kept = [onnxruntime.OrtValue.ortvalue_from_numpy(a) for a in (left, right, out)]
    binding.bind_ortvalue_input("a", kept[0])
    binding.bind_ortvalue_input("b", kept[1])
    binding.bind_ortvalue_output("y", kept[2])

    def run() -> Any:
        session.run_with_iobinding(binding)
        return kept

    return run


def seconds(run: Callable[[], Any]) -> float:
    """Of the processor."""
    start = time.process_time()
    run()
    return time.process_time() - start


def main() -> None:
    """Prints a row for each shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=9)
    turns = parser.parse_args().turns
    torch.set_num_threads(1)
    patches.start()
    random = np.random.default_rng(0)
    for name, (tokens, rows, columns) in SHAPES.items():
        left = random.standard_normal((tokens, rows), np.float32)
        right = random.standard_normal((tokens, columns), np.float32)
        a, b, out = torch.from_numpy(left), torch.from_numpy(right), torch.empty(rows, columns)
        runs = [of_onnxruntime(left, right), lambda a=a, b=b, out=out: torch.mm(a.t(), b, out=out)]
        times = [[seconds(run) for run in runs] for _ in range(turns + 1)][1:]
        rates = [
            2e-9 * tokens * rows * columns / statistics.median(t) for t in zip(*times, strict=True)
        ]
        print(f"{name:18} {tokens} x {rows} x {columns}: ", end="")
        print(f"ONNX Runtime {rates[0]:5.1f} GFLOP/s, PyTorch {rates[1]:5.1f}", flush=True)


if __name__ == "__main__":
    main()
