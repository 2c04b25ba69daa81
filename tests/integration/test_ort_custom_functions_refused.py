"""Custom autograd functions that ONNX Runtime cannot train exactly, or not here, by name."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from custom_functions import CASES, Scaled, model_for
from strategy_runs import launch
from torch import nn
from torch.autograd import Function

from acpt_trainer import GraphBuildError
from acpt_trainer.ort.forward import attach

NO_COMPILER = Path(__file__).with_name("no_compiler.py")


# --- refused by name -----------------------------------------------------------------------------


class OwnSymbolic(Scaled):
    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        return g.op("Mul", x, x)


class OfAModule(Scaled):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, module: nn.Module) -> torch.Tensor:
        return module(x)


class OfAList(Scaled):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, others: list[torch.Tensor]) -> torch.Tensor:
        return x + others[0]


class CheckpointFunction(Scaled):
    """Named as PyTorch's and DeepSpeed's are."""


def holding(tensor: torch.Tensor) -> type[Function]:
    class Held(Scaled):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x + tensor

    return Held


LAYER = nn.Linear(4, 4).requires_grad_(False)
HELD = holding(torch.ones(4))

REFUSED: dict[str, tuple[Callable[..., torch.Tensor], str]] = {
    "own_symbolic": (lambda h, w: OwnSymbolic.apply(h), r"OwnSymbolic exports itself"),
    "module": (lambda h, w: OfAModule.apply(h, LAYER), r"OfAModule .*torch.nn.*Linear"),
    "list_of_tensors": (lambda h, w: OfAList.apply(h, [w]), r"OfAList .*list"),
    "held_tensor": (lambda h, w: HELD.apply(h), r"Held .*'tensor'"),
    "checkpoint": (lambda h, w: CheckpointFunction.apply(h), r"gradient checkpointing"),
}


@pytest.mark.parametrize(("case", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_exact_is_refused_by_name(case: Any, reason: str) -> None:
    model = model_for(case)
    attach(model)
    with pytest.raises(GraphBuildError, match=reason):
        model(x=torch.randn(2, 4))


def test_reentrant_checkpointing_is_refused() -> None:
    from torch.utils.checkpoint import checkpoint

    model = model_for(lambda h, w: checkpoint(torch.tanh, h, use_reentrant=True))
    attach(model)
    with pytest.raises(GraphBuildError, match="checkpoint"):
        model(x=torch.randn(2, 4))


def test_patch_takes_itself_back() -> None:
    from torch.onnx._internal.torchscript_exporter import registration, utils

    from acpt_trainer.ort import custom_functions

    attach(model_for(CASES["scaled"]))  # imports ORTModule, with custom functions off
    from onnxruntime.training.ortmodule import _custom_autograd_function as upstream

    def state() -> tuple[Any, ...]:
        group = registration.registry.get_function_group("prim::PythonOp")
        symbolic = group.get(17) if group else None
        switch = upstream.custom_autograd_function_enabler.state
        return symbolic, switch, utils._run_symbolic_method

    before = state()
    with ExitStack() as stack:
        custom_functions.export_in_python(stack)
        during = state()
    assert state() == before
    assert before[:2] == (None, False)
    assert during[1]
    assert all(a is not b for a, b in zip(before, during, strict=True))


# --- without a compiler --------------------------------------------------------------------------


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No compiler by name or on the path, and nothing built before."""
    monkeypatch.setenv("CXX", "/nonexistent")
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    monkeypatch.setenv("ACPT_TRAINER_CACHE", str(tmp_path))


def test_custom_function_without_a_compiler_is_refused_with_status_2(no_compiler: None) -> None:
    done = launch([str(NO_COMPILER), "custom"], 1)
    assert done.returncode == 2, done.stderr
    for part in ("Scaled", "torch_interop_utils", "package g++", "CXX=/nonexistent", "in forward"):
        assert part in done.stderr, done.stderr


@pytest.mark.slow
def test_gpt2_and_bert_train_without_a_compiler(no_compiler: None) -> None:
    done = launch([str(NO_COMPILER), "gpt2", "bert"], 1)
    assert done.returncode == 0, done.stderr
    assert "gpt2 engaged" in done.stdout
    assert "bert engaged" in done.stdout
