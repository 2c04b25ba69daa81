"""Trains models with `ort` on a machine that is made to have no C++ compiler.

Usage: no_compiler.py MODEL..., of custom, gpt2 and bert; prints each and how `ort` did.
"""

from __future__ import annotations

import sys
import tempfile
from typing import Any

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    TrainingArguments,
)

from acpt_trainer import AcceleratedTrainer, reported_errors

TINY = {"vocab_size": 96, "bos_token_id": 0, "eos_token_id": 0}


class Scaled(torch.autograd.Function):
    """On purpose not the derivative of its forward."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return 3 * grad * x


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(96, 4)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": Scaled.apply(self.embedding(input_ids)).mean()}


class Tokens(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(0, 96, (12,), generator=torch.Generator().manual_seed(i))
        return {"input_ids": ids, "labels": ids}


def model(name: str) -> nn.Module:
    if name == "gpt2":
        return GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, n_positions=16, **TINY))
    if name == "bert":
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        return BertForMaskedLM(BertConfig(**sizes, intermediate_size=32, vocab_size=96))
    return Custom()


def train(name: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder, max_steps=2, per_device_train_batch_size=2, use_cpu=True, report_to=[],
            save_strategy="no", disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        trainer = AcceleratedTrainer(
            model=model(name), args=args, train_dataset=Tokens(), strategy="ort"
        )
        trainer.train()
        return trainer.strategy_report().status


if __name__ == "__main__":
    with reported_errors():
        for asked in sys.argv[1:]:
            print(asked, train(asked))
