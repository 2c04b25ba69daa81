"""PEFT models under `ort` train as in PyTorch: adapters, switches of them, frozen base models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch
from parity import train_both
from peft import LoraConfig, get_peft_model
from peft_models import batches, bert, gpt2, llama, moved, with_lora
from torch import nn

from acpt_trainer import GraphBuildError
from acpt_trainer.ort.forward import attach


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
    model = with_lora(base(), **options)
    forward = train_both(model, batches(of_classes=base is bert))
    assert len(forward.graphs) == 1
    assert_only_trained_have_gradients(model)


CAUSAL = {"task_type": "CAUSAL_LM"}
ATTENTION: dict[str, Any] = {**CAUSAL, "target_modules": ["q_proj", "v_proj"]}

METHODS: dict[str, peft.PeftConfig] = {
    "ia3": peft.IA3Config(**CAUSAL),
    "oft": peft.OFTConfig(r=0, oft_block_size=4, **ATTENTION),
    "adalora": peft.AdaLoraConfig(init_r=4, target_r=2, total_step=10, tinit=0, **ATTENTION),
    "trainable tokens": peft.TrainableTokensConfig(
        token_indices=[3, 5], target_modules=["embed_tokens"], **CAUSAL
    ),
    "prompt tuning": peft.PromptTuningConfig(num_virtual_tokens=4, **CAUSAL),
    "prefix tuning": peft.PrefixTuningConfig(num_virtual_tokens=4, **CAUSAL),
}
FURTHER: dict[str, peft.PeftConfig] = {
    "p-tuning": peft.PromptEncoderConfig(num_virtual_tokens=4, **CAUSAL),
    "adaption prompt": peft.AdaptionPromptConfig(adapter_len=4, adapter_layers=2, **CAUSAL),
    "layer norms": peft.LNTuningConfig(**CAUSAL),
    "lora with trained tokens": LoraConfig(r=4, trainable_token_indices=[3, 5], **CAUSAL),
    "pissa": LoraConfig(r=4, init_lora_weights="pissa", **CAUSAL),
    "loha": peft.LoHaConfig(r=4, **ATTENTION),
    "lokr": peft.LoKrConfig(r=4, **ATTENTION),
    "vera": peft.VeraConfig(r=4, **ATTENTION),
    "vb-lora": peft.VBLoRAConfig(r=2, num_vectors=8, vector_length=16, topk=2, **ATTENTION),
    "hra": peft.HRAConfig(r=4, **ATTENTION),
    "delora": peft.DeloraConfig(r=4, **ATTENTION),
    "miss": peft.MissConfig(r=4, **ATTENTION),
    "c3a": peft.C3AConfig(block_size=8, **ATTENTION),
    "randlora": peft.RandLoraConfig(r=4, **ATTENTION),
    "gralora": peft.GraloraConfig(r=4, gralora_k=2, **ATTENTION),
}
REFUSED: dict[str, tuple[peft.PeftConfig, str]] = {
    "boft": (peft.BOFTConfig(boft_block_size=4, **ATTENTION), "aten::linalg_solve"),
    "fourierft": (peft.FourierFTConfig(n_frequency=20, **ATTENTION), "aten::fft_ifft2"),
    "shira": (peft.ShiraConfig(r=4, **ATTENTION), "aten::sparse_coo_tensor"),
    "cpt": (
        peft.CPTConfig(
            cpt_token_ids=[3, 4], cpt_mask=[1, 1], cpt_tokens_type_mask=[1, 2], **CAUSAL
        ),
        "puts other numbers into a tensor",
    ),
}


@pytest.mark.parametrize(
    "name", [*METHODS, *(pytest.param(n, marks=[pytest.mark.long]) for n in FURTHER)]
)
def test_method_trains_as_in_pytorch(name: str) -> None:
    model: Any = moved(get_peft_model(llama(), {**METHODS, **FURTHER}[name]))

    def between(number: int, m: Any) -> None:
        if name == "adalora" and number:
            m.base_model.update_and_allocate(number)

    forward = train_both(model, batches(), between=between)
    assert len(forward.graphs) == 1
    assert_only_trained_have_gradients(model)


@pytest.mark.long
@pytest.mark.parametrize(("config", "message"), REFUSED.values(), ids=REFUSED)
def test_method_is_refused_by_what_has_no_graph(config: peft.PeftConfig, message: str) -> None:
    model = get_peft_model(llama(), config).train()
    attach(model)
    with pytest.raises(GraphBuildError, match=message):
        model(**batches()[0])


def test_prefix_tuning_leaves_its_cache_out_of_the_output() -> None:
    model: Any = get_peft_model(llama(), METHODS["prefix tuning"]).train()
    plain = model(**batches()[0])
    attach(model)
    assert set(model(**batches()[0])) == set(plain) - {"past_key_values"}


def test_a_frozen_encoder_has_no_gradients_and_its_head_has() -> None:
    model: Any = bert().train()
    model.bert.requires_grad_(False)
    train_both(model, batches(of_classes=True))
    assert_only_trained_have_gradients(model)


# --- what changes between steps ------------------------------------------------------------------


def unfrozen_by_layer() -> Any:
    model: Any = llama()
    model.model.requires_grad_(False)
    return model.train()


def unfreeze(number: int, model: Any) -> None:
    if number:
        model.model.layers[-number].requires_grad_(True)


def two_adapters() -> Any:
    model = with_lora(llama())
    model.add_adapter("second", model.peft_config["default"])
    return model


def switch(number: int, model: Any) -> None:
    model.set_adapter("second" if number == 1 else "default")


def add_adapter(number: int, model: Any) -> None:
    if number == 1:
        torch.manual_seed(1)
        model.add_adapter("second", model.peft_config["default"])
        model.set_adapter("second")


def delete_adapter(number: int, model: Any) -> None:
    if number == 1:
        model.delete_adapter("second")


def merge(number: int, model: Any) -> None:
    if number == 1:
        model.merge_adapter()
        model.unmerge_adapter()


CHANGES: dict[str, tuple[Callable[[], Any], Callable[[int, Any], None], int]] = {
    "layers are unfrozen in turn": (unfrozen_by_layer, unfreeze, 3),
    "adapters in turn": (two_adapters, switch, 2),
    "adapter added": (lambda: with_lora(llama()), add_adapter, 2),
    "adapter deleted": (two_adapters, delete_adapter, 2),
    "adapter merged and taken out again": (lambda: with_lora(llama()), merge, 1),
}


@pytest.mark.parametrize(("make", "between", "graphs"), CHANGES.values(), ids=CHANGES)
def test_change_of_what_trains_is_seen(
    make: Callable[[], Any], between: Callable[[int, Any], None], graphs: int
) -> None:
    model = make()
    forward = train_both(
        model, batches(), between=between, every=True, optimizer=torch.optim.AdamW,
        learning_rate=1e-3,
    )  # fmt: skip
    assert len(forward.graphs) == graphs
    assert_only_trained_have_gradients(model)


def resize(number: int, model: Any) -> None:
    if number == 1:
        torch.manual_seed(1)
        model.resize_token_embeddings(104, mean_resizing=False)
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_tied_embeddings_resized_between_steps_are_exported_again() -> None:
    # An optimizer with moments would not fit the new rows, in PyTorch either.
    forward = train_both(gpt2().train(), batches(), between=resize, every=True)
    assert len(forward.graphs) == 2
    assert "parameters" in forward.re_exports[0]
