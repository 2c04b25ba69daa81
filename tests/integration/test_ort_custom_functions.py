"""Custom autograd functions in ONNX Runtime: PyTorch's own gradients, or refused by name."""

from __future__ import annotations

import copy
import gc
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import launch
from no_compiler import Scaled
from torch import nn
from torch.autograd import Function

from acpt_trainer import GraphBuildError
from acpt_trainer.ort import extensions
from acpt_trainer.ort.forward import attach

NO_COMPILER = Path(__file__).with_name("no_compiler.py")


@pytest.fixture(scope="module")
def interop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The extension, really built: the one build of the suite. It stays loaded, as in a run."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACPT_TRAINER_CACHE", str(cache))
        yield cache


class Rounded(Function):
    """Straight through: rounding has no gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return torch.round(x * 4) / 4

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad


class Reversed(Function):
    """Gradient reversal; what it returns is its input, and it has an argument that is a number."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, scale: float) -> torch.Tensor:
        ctx.scale = scale
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> Any:
        return -ctx.scale * grad, None


class Split(Function):
    """Two inputs, two outputs, numbers, text, a tuple and None."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, w: torch.Tensor, power: int, kind: str, sizes: Any, none: Any
    ) -> Any:
        assert (kind, sizes, none) == ("kind", (1, 2), None)
        ctx.save_for_backward(x, w)
        ctx.power = power
        return x * w, x + w

    @staticmethod
    def backward(ctx: Any, first: torch.Tensor, second: torch.Tensor) -> Any:
        x, w = ctx.saved_tensors
        return ctx.power * first * w + second, first * x - second, None, None, None, None


class Doubled(Function):
    """Writes its input."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.mark_dirty(x)
        return x.mul_(2)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return 0.5 * grad


class Marked(Function):
    """An output without a gradient, and a context that is set up apart."""

    @staticmethod
    def forward(x: torch.Tensor) -> Any:
        return x * 2, (x > 0).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, unused: torch.Tensor) -> torch.Tensor:
        return 7 * grad


class Turned(Function):
    """Its output and its gradient are views whose numbers do not stand in order."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.t()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad.t()


def scaled_by(factor: float) -> type[Function]:
    """Functions that share one name."""

    class Made(Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 1

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return factor * grad

    return Made


HALF, THRICE = scaled_by(0.5), scaled_by(3.0)


def written(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    h = h + 0
    return Doubled.apply(h) * h


def marked(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    value, positive = Marked.apply(h)
    return value * positive


def in_two(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    product, total = Split.apply(h, w, 2, "kind", (1, 2), None)
    return product * total


CASES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "straight_through": lambda h, w: Rounded.apply(h),
    "reversal": lambda h, w: Reversed.apply(h, 0.5),
    "scaled": lambda h, w: Scaled.apply(h),
    "two_outputs": in_two,
    "one_output_used": lambda h, w: Split.apply(h, w, 2, "kind", (1, 2), None)[1],
    "in_place": written,
    "not_differentiable": marked,
    "same_name": lambda h, w: HALF.apply(h) + THRICE.apply(h * w),
    "transposed": lambda h, w: Turned.apply(Turned.apply(h) * 2),
    "several": lambda h, w: Scaled.apply(Reversed.apply(Scaled.apply(Rounded.apply(h)), 2.0)),
}


class Model(nn.Module):
    def __init__(self, case: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.case = case
        self.below, self.above = nn.Linear(4, 4), nn.Linear(4, 4)
        self.weight = nn.Parameter(torch.randn(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.above(self.case(self.below(x), self.weight)).pow(2).mean()


def model_for(case: Callable[..., torch.Tensor]) -> Model:
    torch.manual_seed(0)
    return Model(case).train()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_custom_function_trains_exactly_as_in_pytorch(
    interop: Path, case: Callable[..., torch.Tensor]
) -> None:
    ours = model_for(case)
    theirs = copy.deepcopy(ours)
    forward = attach(ours)
    optimizers = [torch.optim.SGD(m.parameters(), 0.05) for m in (ours, theirs)]
    for step in range(3):
        x = torch.randn(2 + step, 4)
        losses = []
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            optimizer.zero_grad()
            loss = model(x=x)
            loss.backward()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-6)
        largest = max(p.grad.norm() for p in theirs.parameters() if p.grad is not None)
        for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            if b.grad is None:  # ONNX Runtime gives zeros for what the loss does not use
                assert a.grad is None or not a.grad.any(), name
            else:
                assert (a.grad - b.grad).norm() <= 1e-6 * largest, name
        for optimizer in optimizers:
            optimizer.step()
    (graph,) = forward.graphs.values()
    assert graph.summary.python_ops >= 2  # forward and backward
    assert forward.calls == 3


@pytest.mark.slow
def test_several_forwards_before_a_backward_keep_their_contexts(interop: Path) -> None:
    ours = model_for(CASES["scaled"])
    theirs = copy.deepcopy(ours)
    attach(ours)
    batches = [torch.randn(n, 4) for n in (2, 3, 5)]
    for model in (ours, theirs):
        sum(model(x=x) for x in batches).backward()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        if b.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_second_process_loads_what_the_first_built(
    interop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extensions.load("torch_interop_utils")  # built here if no test before did
    monkeypatch.setenv("CXX", "/nonexistent")
    script = "from acpt_trainer.ort import extensions; extensions.load('torch_interop_utils')"
    done = launch(["-c", script], 1)
    assert done.returncode == 0, done.stderr
    assert "building" not in done.stderr
    assert [p.suffix for p in sorted((interop / "extensions").iterdir())] == ["", ".lock"]


@pytest.mark.slow
def test_many_steps_keep_no_contexts(interop: Path) -> None:
    model = model_for(lambda h, w: Scaled.apply(h))
    attach(model)
    alive = []
    for _ in range(10):
        model(x=torch.randn(2, 4)).backward()
        gc.collect()
        alive.append(sum(type(o).__name__ == "ScaledBackward" for o in gc.get_objects()))
    assert alive[-1] == alive[2]


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
