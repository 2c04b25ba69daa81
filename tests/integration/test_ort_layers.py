"""Layers of torch and what a forward pass does around them, under `ort`: as in PyTorch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from parity import Net, numbers, same_in_both
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from transformers import MixtralConfig, MixtralForCausalLM

from acpt_trainer import GraphBuildError
from acpt_trainer.ort.forward import attach

Forward = Callable[[Any, torch.Tensor], Any]

BATCHES: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((numbers(rows, length, 4, seed=rows),), {}) for rows, length in ((1, 5), (3, 6))
]


# --- layers --------------------------------------------------------------------------------------


def attended(m: Any, x: torch.Tensor) -> Any:
    return m.layer(m.one(x), m.one(x), x, key_padding_mask=x[:, :, 0] > 1)


def causal(m: Any, x: torch.Tensor) -> Any:
    mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
    return m.layer(m.one(x), mask=mask, is_causal=True)


def simple(m: Any, x: torch.Tensor) -> Any:
    return m.layer(m.one(x))


def encoder_layer() -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True, norm_first=True)


LAYERS: dict[str, tuple[Callable[[], nn.Module], Forward]] = {
    "MultiheadAttention": (lambda: nn.MultiheadAttention(4, 2, batch_first=True), attended),
    "TransformerEncoder": (lambda: nn.TransformerEncoder(encoder_layer(), 1), causal),
    "TransformerDecoderLayer": (
        lambda: nn.TransformerDecoderLayer(4, 2, 8, dropout=0.0, batch_first=True),
        lambda m, x: m.layer(m.one(x), m.two(x)),
    ),
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Linear(4, 4)), simple),
    "BatchNorm1d without statistics": (
        lambda: nn.BatchNorm1d(4, track_running_stats=False),
        lambda m, x: m.layer(m.one(x).tanh().transpose(1, 2)).pow(3),
    ),
    "adaptive_max_pool1d": (lambda: nn.AdaptiveMaxPool1d(2, return_indices=True), simple),
    "adaptive_avg_pool1d to one": (lambda: nn.AdaptiveAvgPool1d(1), simple),
}


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize(("layer", "forward"), LAYERS.values(), ids=LAYERS)
def test_layer_trains_as_in_pytorch(layer: Callable[[], nn.Module], forward: Forward) -> None:
    assert len(same_in_both(Net(forward, layer=layer()), BATCHES).graphs) == 1


# --- parts ---------------------------------------------------------------------------------------


def two_slices(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = m.one(x)
    return y[..., :2].tanh() * (y[..., 2:] > 0)


def compared_and_detached(m: Any, x: torch.Tensor) -> torch.Tensor:
    a, b, c = m.one(x).split([1, 1, 2], -1)
    return a * b.detach() * (c > 0)


PARTS: dict[str, Forward] = {
    "first of a chunk": lambda m, x: m.one(x).chunk(2, -1)[0].tanh(),
    # Of a size of one: without its other parts the gradient would be broadcast, in silence.
    "one of unbind": lambda m, x: (m.one(x) * m.two.bias).unbind(-1)[1].tanh(),
    "one of a split": lambda m, x: (m.one(x) * m.two.bias).split([1, 3], -1)[0].tanh(),
    "compared and detached": compared_and_detached,
    "slices, one compared": two_slices,
    "slice of the last axis": lambda m, x: m.one(x)[..., 1:3].tanh(),
    "detached weight": lambda m, x: functional.linear(x, m.one.weight.detach()) * m.one(x),
}


@pytest.mark.parametrize("forward", PARTS.values(), ids=PARTS)
def test_part_without_a_gradient_leaves_that_of_the_others_right(forward: Forward) -> None:
    assert len(same_in_both(Net(forward), BATCHES).graphs) == 1


def test_part_of_a_changing_axis_is_never_of_the_wrong_size() -> None:
    forward = same_in_both(Net(lambda m, x: m.one(x).chunk(2, 1)[1].tanh().mean()), BATCHES)
    assert forward.calls == 2


# --- gradients that are switched off -------------------------------------------------------------


def statement(m: Any, x: torch.Tensor) -> torch.Tensor:
    torch.set_grad_enabled(False)
    y = m.one(x)
    torch.set_grad_enabled(True)
    return m.two(y * m.one(x))


def on_again(m: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        with torch.enable_grad():
            y = m.one(x)
        z = m.one(x)
    return m.two(y * z)


def views(m: Any, x: torch.Tensor) -> torch.Tensor:
    y = m.one(x)
    with torch.no_grad():
        part, flat = y[:, :2], y.view(-1)
    return m.two(y) * part.mean() * flat.mean()


def of_the_input(m: Any, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        y = x * 2
    return m.one(x) * y


@pytest.mark.parametrize("forward", [statement, on_again, views, of_the_input])
def test_gradient_is_off_where_pytorch_has_it_off(forward: Forward) -> None:
    batches = [((numbers(2, 5, 4).requires_grad_(),), {})]
    assert len(same_in_both(Net(forward), batches).graphs) == 1


def test_writing_where_autograd_does_not_look_is_refused_by_name() -> None:
    def written(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.one(x)
        with torch.no_grad():
            y.mul_(2)
        return m.two(y)

    model = Net(written)
    attach(model)
    with pytest.raises(GraphBuildError, match=r"mul_ writes under torch\.no_grad(?s:.*)written"):
        model(numbers(2, 5, 4))


def test_mixture_of_experts_trains_once_its_experts_fit_a_graph() -> None:
    config = MixtralConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=3, vocab_size=32,
    )  # fmt: skip
    torch.manual_seed(0)
    model = MixtralForCausalLM(config).train()
    twin = copy.deepcopy(model)
    ids = torch.randint(0, 32, (2, 9), generator=torch.Generator().manual_seed(0))
    attach(model)
    with pytest.raises(GraphBuildError, match=r"set_experts_implementation\('batched_mm'\)"):
        model(input_ids=ids, labels=ids)

    model.set_experts_implementation("batched_mm")
    for rows in (ids, ids[:, :6]):
        losses = [m(input_ids=rows, labels=rows).loss for m in (model, twin)]
        torch.testing.assert_close(*losses, rtol=1e-5, atol=0)
        for loss in losses:
            loss.backward()  # type: ignore[no-untyped-call]
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6, msg=name)
