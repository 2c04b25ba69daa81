"""Many steps of random shapes: one graph, flat memory, and PyTorch's losses and gradients."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import psutil
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from acpt_trainer.ort.forward import attach

STEPS = 1000
SETTLED = 200
"""Steps until allocator and Python have what they need; from there memory must stay."""

GROWTH = 6 << 20
"""Bytes for the other 800 steps: 8 KiB a step, less than the logits of a row, do not pass."""


def gpt2(dropout: float) -> GPT2LMHeadModel:
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=2, n_head=2, n_embd=32, vocab_size=96, n_positions=64, attn_pdrop=dropout,
        resid_pdrop=dropout, embd_pdrop=dropout, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).train()


def batches(count: int) -> Iterator[dict[str, torch.Tensor]]:
    """One to eight rows of two to 64 tokens, padded on the right."""
    source = torch.Generator().manual_seed(0)

    def draw(low: int, high: int, shape: tuple[int, ...] = ()) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=source)

    for _ in range(count):
        rows, columns = int(draw(1, 9)), int(draw(2, 65))
        lengths = draw(2, columns + 1, (rows, 1))
        mask = (torch.arange(columns) < lengths).long()
        ids = draw(3, 96, (rows, columns))
        yield {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": ids.masked_fill(mask == 0, -100),
        }


@pytest.mark.slow
def test_a_thousand_steps_of_random_shapes_take_one_graph_and_no_memory() -> None:
    model = gpt2(dropout=0.1)
    forward = attach(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    process = psutil.Process()
    settled = 0

    for step, inputs in enumerate(batches(STEPS), start=1):
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        optimizer.step()
        if step == SETTLED:
            settled = process.memory_info().rss

    assert (forward.calls, len(forward.graphs)) == (STEPS, 1)
    grown = process.memory_info().rss - settled
    assert grown < GROWTH, f"{grown / 2**20:.1f} MiB in {STEPS - SETTLED} steps"


def test_random_shapes_have_pytorchs_losses_and_gradients_in_one_graph() -> None:
    model = gpt2(dropout=0.0)
    reference = copy.deepcopy(model)
    forward = attach(model)
    for inputs in batches(40):
        for m in (model, reference):
            m.zero_grad()
        ours, theirs = model(**inputs).loss, reference(**inputs).loss
        ours.backward(), theirs.backward()
        assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
        largest = max(float(p.grad.norm()) for p in reference.parameters())
        for a, b in zip(model.parameters(), reference.parameters(), strict=True):
            assert (a.grad - b.grad).norm() <= 1e-4 * max(float(b.grad.norm()), 1e-3 * largest)
    assert len(forward.graphs) == 1
