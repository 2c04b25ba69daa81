"""Says where transformers' Trainer makes a loss too large; its arithmetic stays what it is."""

from __future__ import annotations

import inspect
import logging
from typing import Any

logger = logging.getLogger(__name__)


def averages_its_loss(model: Any) -> bool:
    """Whether a model's loss is a mean over its own batch, whatever it is told to divide by.

    Trainer passes the number of items in all batches of a step to every model whose forward takes
    `**kwargs`. Told from the source of the forward: a loss of the model's own, or one of
    transformers' that knows no such number.
    """
    try:
        source = inspect.getsource(type(model).forward)
    except (OSError, TypeError):
        return False  # not to be told
    if "num_items_in_batch" in source:
        return False
    if "loss_function(" not in source:
        return True
    return "num_items_in_batch" not in inspect.signature(model.loss_function).parameters


def loss_factor(trainer: Any) -> int:
    """How many times too large the loss and the gradients of a trainer's steps are; 1 if right."""
    from transformers import Trainer
    from transformers.trainer import unwrap_peft_model

    if type(trainer).compute_loss is not Trainer.compute_loss:
        return 1
    args = trainer.args
    told = trainer.compute_loss_func is not None or trainer.label_smoother is not None
    if told or not trainer.model_accepts_loss_kwargs:
        return 1
    if not averages_its_loss(unwrap_peft_model(trainer.model)):
        return 1
    batches = 1 if trainer.loss_is_scaled_for_ga is False else args.gradient_accumulation_steps
    return int(batches * (args.world_size if args.average_tokens_across_devices else 1))


def warn_of_loss_factor(trainer: Any) -> None:
    """Says it once, on the first process."""
    factor = loss_factor(trainer)
    if factor == 1 or not trainer.is_world_process_zero():
        return
    logger.warning(
        "%s averages its own loss, and Trainer takes it for a share of the step's %d batches: loss "
        "and gradients are %d times too large. Set model.accepts_loss_kwargs = False before the "
        "trainer is made.",
        type(trainer.model).__name__,
        factor,
        factor,
    )
