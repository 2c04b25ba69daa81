"""What breaks in ORTModule itself, or in what surrounds it, when a patch is off.

Parts of the table in `patch_needs.py`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from models.expressions import Expression, numbers, same_as_pytorch
from torch import nn
from torch.nn import functional

from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort import dropout, patches


def trains() -> None:
    same_as_pytorch(lambda w, x: torch.tanh(x @ w), (3, 4), numbers(2, 3))


def trains_an_embedding() -> None:
    same_as_pytorch(lambda w, x: functional.embedding(x, w), (5, 4), torch.tensor([[1, 2, 0]]))


def leaves_torch_alone() -> None:
    before = (torch.manual_seed, torch.cuda.manual_seed)
    patches.start()
    assert (torch.manual_seed, torch.cuda.manual_seed) == before, "torch.manual_seed is another"


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 3).requires_grad_(False)
        self.head = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x)).sum()


def computes_no_gradient_of_frozen_parameters() -> None:
    from acpt_trainer.ort.forward import attach

    model = Frozen()
    forward = attach(model)
    model(numbers(2, 3)).backward()
    assert model.head.weight.grad is not None
    assert model.body.weight.grad is None
    (graph,) = forward.graphs.values()
    manager = graph.module._torch_module._execution_manager(True)
    computed = [output.name for output in manager._onnx_models.optimized_model.graph.output]
    frozen = [name for name in computed if "body" in name]
    assert not frozen, f"gradients of frozen parameters are computed: {frozen}"


def shares_threads() -> None:
    from acpt_trainer.ort.forward import attach

    model = Frozen()
    forward = attach(model)
    model(numbers(2, 3))
    (graph,) = forward.graphs.values()
    options = graph.module._torch_module._execution_manager(True)._get_session_config()[0]
    threads = options.intra_op_num_threads
    assert threads == torch.get_num_threads(), f"the session has {threads} threads"


def multiplies_with_torch() -> None:
    from acpt_trainer.ort.forward import attach

    model = Expression(lambda w, x: (x @ w).sum(), 256, 256)
    forward = attach(model)
    model(numbers(2, 256)).backward()
    (graph,) = forward.graphs.values()
    manager = graph.module._torch_module._execution_manager(True)
    operators = [node.op_type for node in manager._onnx_models.optimized_model.graph.node]
    assert "ATen" in operators, "no product is PyTorch's"


def draws_its_own_masks() -> None:
    from acpt_trainer.ort.forward import attach

    model = Expression(lambda w, x: functional.dropout(x @ w, 0.5).sum(), 4, 4)
    forward = attach(model)
    model(numbers(2, 4)).backward()
    (graph,) = forward.graphs.values()
    assert "acpt_dropout_mask" in graph.summary.aten_ops, "ONNX Runtime draws the mask"


def operators_of_ours(function: Callable[..., torch.Tensor], *shape: int) -> dict[str, int]:
    from acpt_trainer.ort.forward import attach

    model = Expression(function, *shape)
    forward = attach(model)
    model(numbers(2, shape[0])).backward()
    (graph,) = forward.graphs.values()
    return graph.summary.aten_ops


def writes_scores_once() -> None:
    label = torch.tensor([1, 0])
    found = operators_of_ours(lambda w, x: functional.cross_entropy(x @ w, label), 4, 4)
    assert "acpt_scores_gradient" in found, "the gradient is made in several passes"


def scatters_with_torch() -> None:
    index = torch.tensor([[1, 0], [2, 2]])
    found = operators_of_ours(lambda w, x: (x @ w).gather(1, index).square().sum(), 4, 4)
    assert "acpt_GatherElementsGrad_1" in found, "ONNX Runtime scatters"


def stops_where_the_export_fails() -> None:
    from acpt_trainer.ort.forward import attach

    model = Expression(lambda w, x: torch.linalg.svdvals(x @ w).sum(), 3, 3)
    attach(model)
    try:
        model(numbers(3, 3))
    except GraphBuildError:
        return
    raise AssertionError("the step was run in PyTorch")


class Tripled(torch.autograd.Function):
    """On purpose not the derivative of its forward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return 3 * grad


def is_exact_or_refuses_custom_functions() -> None:
    try:
        same_as_pytorch(lambda w, x: Tripled.apply(x @ w), (3, 4), numbers(2, 3))
    except GraphBuildError as error:
        if "Tripled" not in str(error):
            raise


def runs_the_model_once() -> None:
    from torch._subclasses.fake_tensor import FakeTensor

    runs = []

    def counted(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        runs.append(not isinstance(x, FakeTensor))
        return x @ w

    same_as_pytorch(counted, (3, 4), numbers(2, 3))
    # Once to trace it, and once by the reference.
    assert sum(runs) == 2, f"the model was run {sum(runs) - 1} times with data"


def takes_an_export_from_the_cache() -> None:
    from acpt_trainer.ort.cache import ExportCache
    from acpt_trainer.ort.forward import attach

    with tempfile.TemporaryDirectory() as folder:
        for expected in ("miss", "hit"):
            model = Frozen()
            forward = attach(model, cache=ExportCache(folder))
            model(numbers(2, 3)).backward()
            (graph,) = forward.graphs.values()
            assert graph.cache_use == expected, f"not a {expected}"


def gives_unused_parts_no_gradient() -> None:
    same_as_pytorch(lambda w, x: (w * x).unbind(-1)[1], (4, 6), numbers(4, 6))


def builds_one_session() -> None:
    patches.start()
    from onnxruntime.training.ortmodule import _training_manager

    agent, built = _training_manager.TrainingAgent, []
    _training_manager.TrainingAgent = lambda *a, **k: built.append(1) or agent(*a, **k)
    trains()
    assert len(built) == 1, f"{len(built)} sessions were built"


def follows_autograd() -> None:
    computes_no_gradient_of_frozen_parameters()

    def product(w: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            weights = x @ w
        return weights * (x @ w)

    same_as_pytorch(product, (3, 4), numbers(2, 3))


def ends_gradients_at_cuts() -> None:
    # Behind the cut there are a norm, which has no gradient, and the infinite slope of a root.
    same_as_pytorch(
        lambda w, x: (x @ w) / (1 + torch.linalg.norm(w, dim=0) + (w[0] * 0).sqrt()).detach(),
        (3, 4),
        numbers(2, 3),
    )


def recomputes_with_the_masks_of_the_forward() -> None:
    """After a forward without its backward, recompute must still know the forward's masks."""
    from acpt_trainer.ort.forward import attach

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.norm, self.layer = nn.LayerNorm(16), nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(2):
                x = x + functional.dropout(functional.gelu(self.layer(self.norm(x))), 0.5)
            return self.norm(x).pow(3).sum()

    gradients = []
    for level in (0, 1):
        model = Block()
        forward = attach(model, recompute=level)
        with mock.patch.object(dropout, "RATIOS", (1.0, 0.0)):  # ONNX Runtime's own
            model(numbers(4, 16))
        torch.manual_seed(7)
        model(numbers(4, 16)).backward()
        assert all((g.recompute is not None) == bool(level) for g in forward.graphs.values())
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients)


def refuses_checkpoints_that_would_be_lost() -> None:
    from torch.utils.checkpoint import checkpoint

    try:
        same_as_pytorch(
            lambda w, x: checkpoint(torch.tanh, x @ w, use_reentrant=False), (3, 4), numbers(2, 3)
        )
    except GraphBuildError as error:
        if "torch.utils.checkpoint" not in str(error):
            raise
    else:
        raise AssertionError("the checkpoint was lost without a word")


class Mixed(nn.Module):
    """A frozen encoder in eval mode below a head that trains."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).eval()
        self.head = nn.Linear(3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x)).sum()


def leaves_submodules_in_their_modes() -> None:
    from acpt_trainer.ort.forward import attach

    model = Mixed()
    expected = model(numbers(2, 3))
    attach(model)
    torch.testing.assert_close(model(numbers(2, 3)), expected)
    assert not model.body.training, "a submodule was put into training mode"


def refuses_a_second_backward() -> None:
    from acpt_trainer.ort.forward import attach

    model = Frozen()
    attach(model)
    loss = model(numbers(2, 3))
    loss.backward(retain_graph=True)
    try:
        loss.backward()
    except GraphBuildError:
        return
    raise AssertionError("a second backward pass ran")


def slices_behind_a_bias() -> None:
    same_as_pytorch(lambda w, x: (x @ w + w[0])[..., :2], (4, 6), numbers(2, 3, 4))


def trains_before_frozen_recurrence() -> None:
    torch.manual_seed(0)
    layer = nn.GRU(6, 4).requires_grad_(False)
    same_as_pytorch(lambda w, x: layer(x @ w)[0], (4, 6), numbers(2, 3, 4))


# By the patch's name: the scenario, and what is in its failure without the patch.
ENGINE_NEEDED: dict[str, tuple[Callable[[], None], str]] = {
    "exporter-aliases": (trains, "cannot import name 'jit_utils'"),
    "extensions-on-demand": (trains, "torch_interop_utils"),
    "contained-import": (leaves_torch_alone, "torch.manual_seed is another"),
    "no-nvtx": (trains, "NVTX functions not installed"),
    "shared-threads": (shares_threads, "the session has 0 threads"),
    "torch-weight-gradients": (multiplies_with_torch, "no product is PyTorch's"),
    "vectorized-dropout": (draws_its_own_masks, "ONNX Runtime draws the mask"),
    "loss-in-one-pass": (writes_scores_once, "the gradient is made in several passes"),
    "torch-gradients": (scatters_with_torch, "ONNX Runtime scatters"),
    "torchscript-exporter": (trains, "GraphBuildError"),
    "submodule-modes": (leaves_submodules_in_their_modes, "AssertionError"),
    # The step was run in PyTorch: there is no graph to look at.
    "no-fallback": (stops_where_the_export_fails, "'NoneType' object has no attribute"),
    "symbolics": (trains_an_embedding, "GraphBuildError"),
    "told-outputs": (runs_the_model_once, "the model was run 2 times with data"),
    "export-cache": (takes_an_export_from_the_cache, "not a hit"),
    "kept-promises": (refuses_a_second_backward, "has no attribute 'state'"),
    "split-gradients": (gives_unused_parts_no_gradient, "are not close"),
    "whole-recurrences": (trains_before_frozen_recurrence, "the process died"),
    "no-moved-slices": (slices_behind_a_bias, "UpdateSliceOutputShape"),
    "no-memory-probe": (builds_one_session, "2 sessions were built"),
    "gradient-flow": (follows_autograd, "Cannot compute the partial derivative"),
    "gradient-cuts": (ends_gradients_at_cuts, "no gradient for the operator Shrink"),
    "shared-stream": (trains, "not needed without a GPU"),
    "no-repeated-dropout": (recomputes_with_the_masks_of_the_forward, "are not close"),
    "no-lost-checkpoints": (refuses_checkpoints_that_would_be_lost, "was lost without a word"),
    "no-inlined-functions": (is_exact_or_refuses_custom_functions, "Cannot compute the partial"),
}
