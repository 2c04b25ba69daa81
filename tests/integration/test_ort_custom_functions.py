"""Custom autograd functions in ONNX Runtime, with PyTorch's own gradients."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from custom_functions import CASES, Scaled, model_for
from strategy_runs import launch

from acpt_trainer.ort import extensions
from acpt_trainer.ort.forward import attach


@pytest.fixture(scope="module")
def interop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The extension, really built: the one build of the suite. It stays loaded, as in a run."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACPT_TRAINER_CACHE", str(cache))
        yield cache


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
