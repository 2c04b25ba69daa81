"""Tiny models to fine-tune in part, and batches for them."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import nn

VOCABULARY = 96
SHAPES = [(2, 10), (3, 7), (1, 12)]


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        n_layer=2, n_head=2, n_embd=32, vocab_size=VOCABULARY, n_positions=32, bos_token_id=0,
        eos_token_id=0, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def llama() -> nn.Module:
    config = transformers.LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=48, vocab_size=VOCABULARY, max_position_embeddings=64, pad_token_id=0,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def bert() -> nn.Module:
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        vocab_size=VOCABULARY, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        num_labels=3,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def batches(of_classes: bool = False) -> list[dict[str, torch.Tensor]]:
    """A batch of each shape, the last row of each padded."""
    made = []
    for seed, (rows, columns) in enumerate(SHAPES):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(3, VOCABULARY, (rows, columns), generator=generator)
        mask = torch.ones_like(ids)
        mask[-1, -3:] = 0
        labels = torch.arange(rows) % 3 if of_classes else ids.masked_fill(mask == 0, -100)
        made.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return made


def moved(model: Any) -> nn.Module:
    """The model with adapters away from zero, where each of their weights has a gradient."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name or parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.train()


def with_lora(base: nn.Module, **options: Any) -> Any:
    """A model with LoRA adapters."""
    config = LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, **options})
    return moved(get_peft_model(base, config))
