"""One training step of a grouped 1-D convolution, for a heap checker to watch.

Usage: heap_case.py on|off, with our export of convolutions or with ONNX Runtime's own; prints
`finished` at its end. ONNX Runtime's memory arena would hide what is written out of bounds, so it
is off.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from acpt_trainer.ort import patches, registration
from acpt_trainer.ort.forward import attach


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(8, 8, 3, padding=1, groups=8)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x * self.scale).pow(2).mean()


def without_arena() -> None:
    from onnxruntime.training.ortmodule._graph_execution_manager import GraphExecutionManager

    session_config = GraphExecutionManager._get_session_config

    def get_session_config(self: Any) -> Any:
        options, *rest = session_config(self)
        options.enable_cpu_mem_arena = False
        return options, *rest

    GraphExecutionManager._get_session_config = get_session_config


def upstreams_convolution() -> None:
    ours: Callable[..., dict[str, Any]] = registration._symbolics

    def chosen(upstream: dict[str, Any]) -> dict[str, Any]:
        def others(symbolics: dict[str, Any], yes: bool) -> dict[str, Any]:
            return {k: fn for k, fn in symbolics.items() if ("_convolution" in k) is yes}

        return {**others(ours(upstream), False), **others(upstream, True)}

    registration._symbolics = chosen


if __name__ == "__main__":
    patches.start()
    without_arena()
    if sys.argv[1] == "off":
        upstreams_convolution()
    torch.manual_seed(0)
    model = Grouped().train()
    attach(model)
    model(x=torch.randn(2, 8, 10)).backward()
    print("finished", flush=True)
