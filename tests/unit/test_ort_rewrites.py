"""Rewritten parts of transformers' models give what the models' own parts give."""

from __future__ import annotations

import sys
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from transformers.models.bloom import modeling_bloom
from transformers.models.deberta import modeling_deberta
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

from acpt_trainer import GraphBuildError
from acpt_trainer.ort import rewrites
from acpt_trainer.ort.deferred import Deferred, defer_ctc_loss
from acpt_trainer.ort.nested import after_graph, flatten, rebuild


@pytest.mark.parametrize(
    ("length", "probability", "minimum"), [(4, 0.3, 0), (3, 0.05, 2), (10, 0.65, 0), (2, 0.1, 0)]
)
def test_spec_augment_mask_has_numpys_distribution(
    length: int, probability: float, minimum: int
) -> None:
    mask = torch.ones(3, 20, dtype=torch.long)
    mask[1, 11:] = 0
    mask[2, 1:] = 0  # too short for a span
    np.random.seed(0)
    torch.manual_seed(0)
    options = {
        "mask_prob": probability, "mask_length": length, "attention_mask": mask,
        "min_masks": minimum,
    }  # fmt: skip
    theirs = np.stack([_compute_mask_indices((3, 20), **options) for _ in range(1500)])
    drawn = [rewrites.spec_augment_mask((3, 20), **options) for _ in range(1500)]
    ours = torch.stack(drawn).numpy()

    assert ours.dtype == theirs.dtype == bool
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=0.06)
    np.testing.assert_allclose(ours.sum(-1).mean(0), theirs.sum(-1).mean(0), atol=0.25)
    np.testing.assert_allclose(ours.sum(-1).std(0), theirs.sum(-1).std(0), atol=0.25)


def test_attention_span_is_debertas() -> None:
    for query, key, most in ((5, 7, 16), (9, 3, 16), (20, 20, 16)):
        tensors = torch.zeros(1, query, 4), torch.zeros(1, key, 4)
        ours = rewrites.attention_span(*tensors, most)
        assert ours == modeling_deberta.compute_attention_span(*tensors, most)


def test_bloom_gelus_backward_is_the_derivative_of_its_forward() -> None:
    x = torch.randn(64, dtype=torch.double, requires_grad=True)
    with ExitStack() as stack:
        own = modeling_bloom.GeLUFunction.apply
        rewrites.inline_bloom_gelu(stack)
        ours = modeling_bloom.GeLUFunction.apply
    values = [f(x).sum() for f in (own, ours)]
    gradients = [torch.autograd.grad(value, x)[0] for value in values]
    assert values[0].equal(values[1])
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-8)
    assert modeling_bloom.GeLUFunction.apply == own


def test_rewrites_are_taken_back() -> None:
    module = sys.modules["transformers.models.wav2vec2.modeling_wav2vec2"]
    with ExitStack() as stack:
        rewrites.trace_len(stack)
        rewrites.trace_spec_augment(stack)
        assert module._compute_mask_indices is rewrites.spec_augment_mask
        assert module.len([1, 2]) == 2
    assert module._compute_mask_indices is _compute_mask_indices
    assert "len" not in vars(module)


def ctc_arguments() -> tuple[torch.Tensor, ...]:
    logits = torch.randn(12, 2, 5, requires_grad=True)
    return logits.log_softmax(-1), torch.ones(6), torch.tensor([12, 9]), torch.tensor([3, 3])


def test_deferred_loss_is_computed_from_the_graphs_outputs() -> None:
    arguments = ctc_arguments()
    with ExitStack() as stack:
        defer_ctc_loss(stack)
        loss = torch.nn.functional.ctc_loss(*arguments, reduction="sum")
        assert isinstance(loss, Deferred)
    flat: list[torch.Tensor] = []
    structure = flatten({"loss": loss, "logits": arguments[0]}, flat)

    expected = torch.nn.functional.ctc_loss(*arguments, reduction="sum")
    assert len(flat) == 4  # the logits are the loss's first argument too
    assert after_graph(structure) == ("ctc_loss",)
    assert rebuild(structure, flat)["loss"].equal(expected)


def test_deferred_loss_that_the_model_computes_with_is_refused() -> None:
    with ExitStack() as stack:
        defer_ctc_loss(stack)
        loss = torch.nn.functional.ctc_loss(*ctc_arguments())
    for compute in (lambda: loss * 2, lambda: 1 + loss, lambda: loss.mean(), lambda: -loss):
        with pytest.raises(GraphBuildError, match="goes on computing with the result of ctc_loss"):
            compute()
