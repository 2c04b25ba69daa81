"""ONNX Runtime training on small models, in this process, with the real engine."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from parity import assert_same_gradients, train_both
from torch import nn
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from acpt_trainer import GraphBuildError
from acpt_trainer.ort import patches
from acpt_trainer.ort.forward import attach, detach


def gpt2(attention: str = "sdpa", dropout: float = 0.0) -> GPT2LMHeadModel:
    config = GPT2Config(
        n_layer=2, n_head=2, n_embd=32, vocab_size=96, n_positions=32, attn_pdrop=dropout,
        resid_pdrop=dropout, embd_pdrop=dropout, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    config._attn_implementation = attention
    torch.manual_seed(0)
    return GPT2LMHeadModel(config).train()


def batch(rows: int = 2, columns: int = 12, padded: str = "right") -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 96, (rows, columns), generator=torch.Generator().manual_seed(rows))
    mask = torch.ones_like(ids)
    if padded == "right":
        mask[-1, -3:] = 0
    elif padded == "left":
        mask[-1, :3] = 0
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": ids.masked_fill(mask == 0, -100),
    }


def step(model: nn.Module, inputs: dict[str, Any]) -> Any:
    model.zero_grad(set_to_none=True)
    output = model(**inputs)
    loss = output.loss if hasattr(output, "loss") else output
    loss.backward()
    return output


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("padded", ["right", "left", "none"])
def test_gpt2_gradients_equal_pytorch_for_new_shapes_in_one_graph(
    attention: str, padded: str
) -> None:
    model = gpt2(attention)
    reference = copy.deepcopy(model)
    forward = attach(model)

    for rows, columns in ((2, 12), (3, 20), (1, 7)):
        inputs = batch(rows, columns, padded)
        ours, theirs = step(model, inputs), step(reference, inputs)
        assert ours.loss.item() == pytest.approx(theirs.loss.item(), rel=1e-5)
        torch.testing.assert_close(ours.logits, theirs.logits, rtol=1e-4, atol=1e-5)
        assert_same_gradients(model, reference)
    assert len(forward.graphs) == 1
    assert forward.calls == 3


def test_bert_gradients_equal_pytorch() -> None:
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        vocab_size=96, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertForMaskedLM(config).train()
    train_both(model, [batch()])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_dropout_follows_torchs_random_state(attention: str) -> None:
    model = gpt2(attention, dropout=0.1)
    attach(model)
    model(**batch())  # builds the graph

    state = torch.get_rng_state()
    first = [model(**batch()).loss.item() for _ in range(3)]
    torch.set_rng_state(state)
    again = [model(**batch()).loss.item() for _ in range(3)]

    assert first == again
    assert len(set(first)) == 3


def test_dropout_keeps_the_expected_loss() -> None:
    model = gpt2(dropout=0.1)
    reference = copy.deepcopy(model)
    attach(model)
    torch.manual_seed(0)
    ours = torch.stack([model(**batch()).loss.detach() for _ in range(60)])
    theirs = torch.stack([reference(**batch()).loss.detach() for _ in range(60)])

    error = (ours.var() / 60 + theirs.var() / 60).sqrt()
    assert (ours.mean() - theirs.mean()).abs() < 4 * error
    assert ours.std() == pytest.approx(theirs.std().item(), rel=0.5)


def test_frozen_parameters_get_no_gradient_and_thawing_is_noticed() -> None:
    model = gpt2()
    reference = copy.deepcopy(model)
    for m in (model, reference):
        m.transformer.wte.requires_grad_(False)
        m.transformer.h[0].requires_grad_(False)
    forward = attach(model)

    step(model, batch()), step(reference, batch())
    assert model.transformer.wte.weight.grad is None
    assert_same_gradients(model, reference)
    for m in (model, reference):
        m.requires_grad_(True)
    step(model, batch()), step(reference, batch())
    assert_same_gradients(model, reference)
    assert len(forward.graphs) == 2


def test_embedding_padding_row_gets_no_gradient() -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(10, 4, padding_idx=0)
            self.head = nn.Linear(4, 1)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.embedding(ids)).pow(2).mean()

    torch.manual_seed(0)
    model = Bag()
    train_both(model, [{"ids": torch.tensor([[1, 2, 0], [3, 0, 0]])}])
    assert model.embedding.weight.grad[0].abs().sum() == 0


def test_broadcast_where_gradient_is_summed() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.row = nn.Parameter(torch.randn(1, 4))
            self.column = nn.Parameter(torch.randn(3, 1))

        def forward(self, keep: torch.Tensor) -> torch.Tensor:
            return torch.where(keep, self.row, self.column).pow(2).sum()

    torch.manual_seed(0)
    train_both(Masked(), [{"keep": torch.tensor([[True, False, True, True]] * 3)}])


def test_grouped_convolution_gradients_equal_pytorch() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(8, 8, 4, padding=2, groups=4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).pow(2).mean()

    torch.manual_seed(0)
    train_both(Grouped(), [{"x": torch.randn(2, 8, 20)}])


def test_operator_without_an_onnx_form_is_named() -> None:
    class Singular(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.svdvals(self.layer(x)).sum()

    model = Singular()
    attach(model)
    export = torch.onnx.export

    with pytest.raises(GraphBuildError, match=r"Singular.*svdvals(?s:.*)strategy='no_acc'"):
        model(x=torch.randn(3, 3))
    assert torch.onnx.export is export


def test_changing_arguments_are_counted_and_limited() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
            return self.layer(x).pow(2).sum() * scale

    model = Scaled()
    forward = attach(model, max_graphs=2)
    x = torch.randn(2, 3)
    one, two = model(x, scale=1.0), model(x, scale=2.0)

    assert two.item() == pytest.approx(2 * one.item(), rel=1e-5)
    assert len(forward.graphs) == 2
    with pytest.raises(GraphBuildError, match="other arguments"):
        model(x, scale=3.0)


def test_per_step_number_needs_no_new_graph() -> None:
    model = gpt2()
    forward = attach(model)
    losses = [model(**batch(), num_items_in_batch=n).loss.item() for n in (4, 8, 16)]

    assert losses[0] == pytest.approx(2 * losses[1], rel=1e-5)
    assert losses[1] == pytest.approx(2 * losses[2], rel=1e-5)
    assert len(forward.graphs) == 1


def test_evaluation_and_generation_use_the_original_forward() -> None:
    model = gpt2()
    reference = copy.deepcopy(model).eval()
    forward = attach(model)
    model.eval()

    torch.testing.assert_close(model(**batch()).logits, reference(**batch()).logits)
    prompt = torch.tensor([[1, 2, 3]])
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    assert model.generate(prompt, **options).equal(reference.generate(prompt, **options))
    with torch.no_grad():
        model.train()
        model(**batch())
    assert forward.calls == 0


def test_copies_and_pickles_do_not_carry_the_wrapper() -> None:
    model = gpt2()
    attach(model)
    step(model, batch())

    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.forward.__self__ is twin
        twin.train()
        with torch.no_grad():
            twin.transformer.wte.weight.zero_()
        assert model.transformer.wte.weight.abs().sum() > 0
        assert type(step(twin, batch()).loss.grad_fn).__name__ != "_ORTModuleFunctionBackward"


def test_detach_gives_the_model_its_own_forward_back() -> None:
    model = gpt2()
    attach(model)
    step(model, batch())
    detach(model)

    assert "forward" not in vars(model)
    assert type(step(model, batch()).loss.grad_fn).__name__ != "_ORTModuleFunctionBackward"


def test_importing_the_engine_leaves_torch_as_it_was() -> None:
    import torch.utils.checkpoint

    before = (torch.manual_seed, torch.cuda.manual_seed, torch.utils.checkpoint.checkpoint)
    export = torch.onnx.export
    model = gpt2()
    attach(model)
    step(model, batch())

    after = (torch.manual_seed, torch.cuda.manual_seed, torch.utils.checkpoint.checkpoint)
    assert after == before
    assert torch.onnx.export is export
    assert patches.active()
    other = attach(gpt2())
    detach(model)
    assert patches.active(), "the other model still needs them"
    other.release()
    assert patches.active() == ()


def test_several_forwards_before_a_backward() -> None:
    model = gpt2()
    reference = copy.deepcopy(model)
    attach(model)
    for m in (model, reference):
        (m(**batch(2)).loss + m(**batch(3)).loss).backward()

    assert_same_gradients(model, reference)
