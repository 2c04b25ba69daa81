"""Precision under `ort` on a CPU: each one trains as PyTorch does, or is refused by name."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    TrainingArguments,
)

from acpt_trainer import AcceleratedTrainer, ConfigurationError, GraphBuildError, create_accelerator
from acpt_trainer.ort.forward import attach


def gpt2() -> Any:
    """Its head is tied to its embedding."""
    return GPT2LMHeadModel(
        GPT2Config(
            n_layer=2, n_head=2, n_embd=32, vocab_size=96, n_positions=32, attn_pdrop=0.0,
            resid_pdrop=0.0, embd_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


def bert() -> Any:
    return BertForMaskedLM(
        BertConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            vocab_size=96, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )
    )  # fmt: skip


def llama() -> Any:
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            vocab_size=96,
        )
    )  # fmt: skip


def made(model: Callable[[], Any]) -> Any:
    torch.manual_seed(0)
    return model().train()


def batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 96, (2, 12), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    mask[-1, -3:] = 0
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


@pytest.mark.parametrize("kind", [gpt2, bert, llama])
def test_gradients_in_pure_half_are_near_those_of_fp32(kind: Callable[[], Any]) -> None:
    model = made(kind)
    reference = copy.deepcopy(model)
    model.half()
    attach(model)

    ours, theirs = model(**batch()), reference(**batch())
    ours.loss.backward()
    theirs.loss.backward()

    assert ours.logits.dtype == torch.float16
    assert ours.loss.item() == pytest.approx(theirs.loss.item(), abs=1e-3)
    largest = max(p.grad.norm() for p in reference.parameters())
    for (name, a), b in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert a.grad.dtype == torch.float16
        error = (a.grad.float() - b.grad).norm()
        assert error <= 2e-3 * max(b.grad.norm(), 1e-2 * largest), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_of_the_script_is_refused_by_name(dtype: torch.dtype) -> None:
    model = made(gpt2)
    forward = attach(model)
    refused = pytest.raises(
        GraphBuildError, match=rf"under autocast in {dtype}(?s:.*)fix: .*no_acc"
    )
    with torch.autocast("cpu", dtype), refused:
        model(**batch())
    before = model(**batch()).loss.item()
    with torch.autocast("cpu", dtype), refused:  # with a graph in fp32 at hand, too
        model(**batch())
    assert model(**batch()).loss.item() == before
    assert len(forward.graphs) == 1


def test_autocast_of_another_device_changes_nothing() -> None:
    model = made(gpt2)
    forward = attach(model)
    before = model(**batch()).loss.item()
    torch.set_autocast_enabled("cuda", True)
    try:
        assert model(**batch()).loss.item() == before
    finally:
        torch.set_autocast_enabled("cuda", False)
    assert len(forward.graphs) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_a_model_that_is_cast_later_is_refused_by_name(dtype: torch.dtype) -> None:
    model = made(bert)
    attach(model)
    model(**batch())
    model.to(dtype)
    with pytest.raises(GraphBuildError, match=rf"weights in {dtype}(?s:.*)where: BertForMaskedLM"):
        model(**batch())


def test_layers_of_other_types_are_refused_as_in_pytorch() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4).half())

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x).sum()

    mixed = Mixed()
    attach(mixed)
    with pytest.raises(GraphBuildError, match=r"dtype"):
        mixed(torch.randn(2, 4))


@pytest.mark.parametrize("said", ["bf16", "fp16"])
def test_training_arguments_in_half_precision_are_refused(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = rf"'ort' does not train in {said} on cpu(?s:.*)fix: "
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    setattr(args, said, True)
    with pytest.raises(ConfigurationError, match=named):
        AcceleratedTrainer(model=made(gpt2), args=args, strategy="ort")
    with pytest.raises(ConfigurationError, match=named):
        create_accelerator("ort", precision=said, cpu=True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", said)
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    with pytest.raises(ConfigurationError, match=named):
        AcceleratedTrainer(model=made(gpt2), args=args, strategy="ort")


@pytest.mark.parametrize(
    ("dtype", "what"),
    [
        (torch.float16, "half precision"),
        (torch.bfloat16, "half precision"),
        (torch.float64, "weights in torch.float64"),
    ],
    ids=str,
)
def test_a_model_loaded_in_another_type_is_refused(
    dtype: torch.dtype, what: str, tmp_path: Path
) -> None:
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[])
    with pytest.raises(ConfigurationError, match=rf"{what}(?s:.*)\.float\(\)"):
        AcceleratedTrainer(model=made(gpt2).to(dtype), args=args, strategy="ort")
