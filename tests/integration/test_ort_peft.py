"""PEFT models under `ort` train as in PyTorch: adapters, switches of them, frozen base models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers
from parity import train_both
from peft import LoraConfig, get_peft_model
from torch import nn

from acpt_trainer.ort import patches

SHAPES = [(2, 10), (3, 7), (1, 12)]


@pytest.fixture(autouse=True)
def _no_patch_is_left() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    while patches.active():
        patches.stop()


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        n_layer=2, n_head=2, n_embd=32, vocab_size=96, n_positions=32, bos_token_id=0,
        eos_token_id=0, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def llama() -> nn.Module:
    config = transformers.LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=48, vocab_size=96, max_position_embeddings=64, pad_token_id=0,
        bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def bert() -> nn.Module:
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        vocab_size=96, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, num_labels=3,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def batches(of_classes: bool = False) -> list[dict[str, torch.Tensor]]:
    made = []
    for seed, (rows, columns) in enumerate(SHAPES):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(3, 96, (rows, columns), generator=generator)
        mask = torch.ones_like(ids)
        mask[-1, -3:] = 0
        labels = torch.arange(rows) % 3 if of_classes else ids.masked_fill(mask == 0, -100)
        made.append({"input_ids": ids, "attention_mask": mask, "labels": labels})
    return made


def moved(model: Any) -> nn.Module:
    """The model with adapters away from zero, where each of their weights has a gradient."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    return model.train()


def assert_only_trained_have_gradients(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


LORA: dict[str, tuple[Any, dict[str, Any]]] = {
    "gpt2": (gpt2, {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    "llama": (llama, {"target_modules": ["q_proj", "v_proj"]}),
    "bert": (bert, {"task_type": "SEQ_CLS"}),
    # The norm of its weights is detached: no gradient goes through it.
    "gpt2, dora": (gpt2, {"use_dora": True, "fan_in_fan_out": True}),
    "llama, dora": (llama, {"use_dora": True}),
    "llama, head trained whole": (llama, {"modules_to_save": ["lm_head"]}),
}


@pytest.mark.parametrize("name", LORA)
def test_lora_trains_as_in_pytorch(name: str) -> None:
    base, options = LORA[name]
    config = LoraConfig(**{"task_type": "CAUSAL_LM", "r": 4, **options})
    model = moved(get_peft_model(base(), config))
    forward = train_both(model, batches(of_classes=base is bert))
    assert len(forward.graphs) == 1
    assert_only_trained_have_gradients(model)


def test_the_adapter_that_is_set_is_the_one_that_trains() -> None:
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"])
    model: Any = get_peft_model(llama(), config)
    model.add_adapter("second", config)
    moved(model)

    def between(number: int, m: Any) -> None:
        m.set_adapter("second" if number == 1 else "default")

    def sgd(parameters: Any, lr: float) -> torch.optim.Optimizer:
        del parameters
        return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)

    train_both(model, batches(), between=between, optimizer=sgd)
    assert_only_trained_have_gradients(model)


def test_a_frozen_encoder_has_no_gradients_and_its_head_has() -> None:
    model: Any = bert().train()
    model.bert.requires_grad_(False)
    train_both(model, batches(of_classes=True))
    assert_only_trained_have_gradients(model)
