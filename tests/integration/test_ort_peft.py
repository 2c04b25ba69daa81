"""PEFT models under `ort` train as in PyTorch: adapters, switches of them, frozen base models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from parity import train_both
from peft_models import batches, bert, gpt2, llama, with_lora
from torch import nn

from acpt_trainer.ort import patches


@pytest.fixture(autouse=True)
def _no_patch_is_left() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    while patches.active():
        patches.stop()


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
