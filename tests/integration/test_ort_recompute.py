"""Gradient checkpointing under `ort`: ONNX Runtime recomputes, and gradients stay what they are."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

from acpt_trainer import AcceleratedTrainer, GraphBuildError
from acpt_trainer.ort.forward import OrtForward, attach


def gpt2(dropout: float = 0.0) -> Any:
    config = GPT2Config(
        n_layer=2, n_head=2, n_embd=32, vocab_size=96, n_positions=32, attn_pdrop=dropout,
        resid_pdrop=dropout, embd_pdrop=dropout, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    return GPT2LMHeadModel(config).train()


def batch(columns: int = 12) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 96, (2, columns), generator=torch.Generator().manual_seed(columns))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def newest(forward: OrtForward) -> Any:
    return list(forward.graphs.values())[-1]


def test_checkpointing_of_the_model_becomes_recompute_with_pytorchs_gradients() -> None:
    model = gpt2()
    reference = copy.deepcopy(model)
    model.activation_checkpointing_enable()
    forward = attach(model)

    for columns in (12, 20):
        for m in (model, reference):
            m.zero_grad()
            m(**batch(columns)).loss.backward()
        for (name, a), b in zip(model.named_parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6, msg=name)

    found, saving = newest(forward).recompute, newest(forward).summary.activations_mb
    assert found.level == 1
    assert found.operators["Softmax"] == 2, "the attention weights of both layers"
    assert found.operators["FastGelu"] == 2
    assert found.estimated_saving_mb > 0
    assert model.is_gradient_checkpointing, "the model's own switch is left as it was"
    model.activation_checkpointing_disable()
    model(**batch())
    assert newest(forward).recompute is None
    assert len(forward.graphs) == 2
    assert 0 < saving < newest(forward).summary.activations_mb / 2


def gradients(model: nn.Module, recompute: int) -> list[torch.Tensor]:
    """Gradients of one more step, after a forward without a backward and two before one."""
    forward = attach(model, recompute=recompute)
    model(**batch())
    torch.manual_seed(7)
    (model(**batch()).loss + 2 * model(**batch()).loss).backward()
    assert (newest(forward).recompute is not None) == bool(recompute)
    forward.release()
    return [p.grad for p in model.parameters()]


def test_recompute_repeats_the_masks_of_dropout() -> None:
    for a, b in zip(gradients(gpt2(0.3), 1), gradients(gpt2(0.3), 0), strict=True):
        torch.testing.assert_close(a, b)


def test_nothing_to_recompute_is_an_error() -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).sum()

    model = Small()
    attach(model, recompute=1)
    with pytest.raises(GraphBuildError, match=r"nothing to compute again(?s:.*)recompute=0"):
        model(torch.randn(2, 3))


class Own(nn.Module):
    """A model that calls PyTorch's checkpointing itself."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.norm = nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        x = x + checkpoint(self._block, x, use_reentrant=self.reentrant)
        return self.norm(x).pow(3).mean()

    def _block(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(nn.functional.gelu(self.up(x)))


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_call_of_checkpoint_is_refused_or_recomputed(reentrant: bool) -> None:
    torch.manual_seed(0)
    model, x = Own(reentrant), torch.randn(4, 8)
    reference = copy.deepcopy(model)
    forward = attach(model)
    with pytest.raises(GraphBuildError, match=r"torch.utils.checkpoint.*recompute=1"):
        model(x)
    forward.release()

    forward = attach(model, recompute=1)
    model(x).backward()
    reference(x).backward()
    for a, b in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)
    assert newest(forward).recompute.operators


def test_training_arguments_ask_for_recompute_and_the_report_shows_it(tmp_path: Path) -> None:
    model = gpt2()
    args = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=2, use_cpu=True,
        activation_checkpointing=True, report_to=[], save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    rows = [{k: v[0] for k, v in batch().items()}] * 8
    trainer = AcceleratedTrainer(model=model, args=args, train_dataset=rows, strategy="ort")
    trainer.train()
    assert trainer.strategy_report().evidence["recompute"]["operators"]["Softmax"] == 2
    assert "forward" not in vars(model)
