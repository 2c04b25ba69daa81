"""What Trainer makes of a loss that averages: reproduced, told, and the way out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from acpt_trainer import AcceleratedTrainer
from acpt_trainer.loss_scale import averages_its_loss, loss_factor

ROWS = [
    {"input_ids": torch.tensor([i % 7, 1, 2]), "labels": torch.tensor(i % 2)} for i in range(16)
]


def bert(cls: str = "BertForSequenceClassification") -> Any:
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        vocab_size=8, max_position_embeddings=4, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return getattr(transformers, cls)(config)


@pytest.mark.parametrize(
    ("cls", "averages"),
    [
        ("BertForSequenceClassification", True),
        ("BertForMaskedLM", True),
        ("BertLMHeadModel", False),
    ],
)
def test_averages_its_loss_tells_by_the_forward(cls: str, averages: bool) -> None:
    assert averages_its_loss(bert(cls)) is averages


def test_a_forward_that_names_the_number_divides_by_it() -> None:
    class Divides(nn.Module):
        def forward(self, num_items_in_batch: int, **kwargs: Any) -> None: ...

    class Averages(nn.Module):
        def forward(self, **kwargs: Any) -> None: ...

    assert not averages_its_loss(Divides())
    assert averages_its_loss(Averages())


def first_loss(model: Any, make_args: Callable[..., Any], accumulation: int, batch: int) -> float:
    args = make_args(
        max_steps=1, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
        logging_steps=1, save_strategy="no",
    )  # fmt: skip
    trainer = AcceleratedTrainer(model=model, args=args, train_dataset=ROWS)
    trainer.train()
    return float(trainer.state.log_history[0]["loss"])


def test_accumulation_makes_a_mean_larger_unless_the_model_says_so(
    make_args: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "acpt_trainer.loss_scale"):
        right = first_loss(bert(), make_args, accumulation=1, batch=4)
        model = bert()
        model.accepts_loss_kwargs = False
        mended = first_loss(model, make_args, accumulation=2, batch=2)
        assert mended == pytest.approx(right, rel=1e-5)
        assert not caplog.messages
        # What transformers does; the warning can go when this fails.
        wrong = first_loss(bert(), make_args, accumulation=2, batch=2)
        assert wrong == pytest.approx(2 * right, rel=1e-5)
    (said,) = caplog.messages
    assert "loss and gradients are 2 times too large" in said
    assert "model.accepts_loss_kwargs = False" in said


@pytest.mark.parametrize(
    ("changed", "factor"),
    [
        ({}, 6),
        ({"average_tokens_across_devices": False}, 3),
        ({"loss_is_scaled_for_ga": False}, 2),
        ({"compute_loss_func": print}, 1),
        ({"label_smoother": print}, 1),
        ({"model_accepts_loss_kwargs": False}, 1),
    ],
    ids=lambda v: next(iter(v), "plain") if isinstance(v, dict) else "",
)
def test_loss_factor_counts_processes_and_batches(changed: dict[str, Any], factor: int) -> None:
    from transformers import Trainer

    trainer = Trainer.__new__(Trainer)
    said = {
        "model": bert(), "compute_loss_func": None, "label_smoother": None,
        "model_accepts_loss_kwargs": True, "loss_is_scaled_for_ga": None, **changed,
    }  # fmt: skip
    across = said.pop("average_tokens_across_devices", True)
    trainer.args = SimpleNamespace(
        gradient_accumulation_steps=3, world_size=2, average_tokens_across_devices=across
    )
    vars(trainer).update(said)
    assert loss_factor(trainer) == factor
