"""Trains models of several shapes under `fsdp`, and the same in plain PyTorch on all rows.

Usage: torchrun ... fsdp_worker.py ANSWER.json
"""

from __future__ import annotations

import copy
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate.state import AcceleratorState
from peft import LoraConfig, get_peft_model
from torch import nn

from acpt_trainer import create_accelerator, strategy_report

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 64}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
IDS = torch.randint(1, 64, (4, 8), generator=torch.Generator().manual_seed(0))
Batch = dict[str, torch.Tensor]


def bert(cls: Any) -> nn.Module:
    config = transformers.BertConfig(
        **SIZES, **NO_DROPOUT, vocab_size=64, max_position_embeddings=8
    )
    return cls(config)


def t5() -> nn.Module:
    config = transformers.T5Config(
        d_model=32, d_ff=64, d_kv=16, num_layers=2, num_heads=2, vocab_size=64, dropout_rate=0.0,
        decoder_start_token_id=0,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config)


def vit() -> nn.Module:
    config = transformers.ViTConfig(**SIZES, **NO_DROPOUT, image_size=8, patch_size=4)
    return transformers.ViTForImageClassification(config)


def lora() -> nn.Module:
    config = transformers.GPT2Config(
        n_layer=2, n_head=2, n_embd=32, vocab_size=64, n_positions=8, attn_pdrop=0.0,
        resid_pdrop=0.0, embd_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    adapter = LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False)
    return get_peft_model(transformers.GPT2LMHeadModel(config), adapter)


class Module(nn.Module):
    """No model of transformers, without repeated blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, numbers: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": self.outer(self.inner(numbers).relu()).square().mean()}


WORDS = {"input_ids": IDS, "labels": IDS}
CLASSES = torch.tensor([0, 1, 1, 0])
CASES: dict[str, tuple[Callable[[], nn.Module], Batch]] = {
    "bert": (lambda: bert(transformers.BertForMaskedLM), WORDS),
    "bert_classifier": (
        lambda: bert(transformers.BertForSequenceClassification),
        {"input_ids": IDS, "labels": CLASSES},
    ),
    "t5": (t5, WORDS),
    "vit": (
        vit,
        {"pixel_values": torch.linspace(-1, 1, 768).reshape(4, 3, 8, 8), "labels": CLASSES},
    ),
    "lora": (lora, WORDS),
    "module": (Module, {"numbers": torch.linspace(-1, 1, 32).reshape(4, 8)}),
}


def train(model: nn.Module, batch: Batch, accelerator: Any = None) -> list[float]:
    optimizer: Any = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-3)
    if accelerator is not None:
        model, optimizer = accelerator.prepare(model, optimizer)
    losses = []
    for _ in range(3):
        loss = model(**batch)["loss"]
        if accelerator is None:
            loss.backward()
        else:
            accelerator.backward(loss)
            loss = accelerator.reduce(loss.detach(), "mean")
        losses.append(float(loss))
        optimizer.step()
        optimizer.zero_grad()
    return losses


def main() -> None:
    warnings.simplefilter("ignore")
    found = {}
    for name, (make, batch) in CASES.items():
        torch.manual_seed(0)
        model = make().train()
        plain = train(copy.deepcopy(model), batch)
        accelerator = create_accelerator("fsdp", precision="fp32")
        rank = accelerator.process_index
        mine = {key: value[2 * rank : 2 * rank + 2] for key, value in batch.items()}
        losses = train(model, mine, accelerator)
        report = strategy_report(accelerator)
        found[name] = {
            "status": report.status,
            "losses": losses,
            "plain_losses": plain,
            "units": report.evidence["units"],
            "share": report.evidence["parameter_share"],
        }
        accelerator.free_memory()
        AcceleratorState._reset_state(reset_partial_state=True)
    if rank == 0:
        Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
