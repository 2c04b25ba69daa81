"""What an entry of the zoo is: a tiny model of one type, and batches for it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn

VOCABULARY = 100
GROUPS = ("text", "vision", "audio", "multimodal")
ATTENTIONS = ("eager", "sdpa")
# The modules that hold entries, each in a tuple named ENTRIES.
MODULES = ("core",)

Batch = dict[str, Any]
BatchMaker = Callable[[int, int, str], Batch]


@dataclass(frozen=True)
class Entry:
    """One model type, tiny.

    Attributes:
        name: Its name in the table, unique.
        group: One of `GROUPS`.
        model: Class name in transformers; the config class is its `config_class`.
        config: Arguments of the config, with every dropout that it has switched on.
        no_dropout: Arguments that switch every dropout off; nested like `config`.
        batch: Makes a batch from rows, columns and padding ("right", "left", "none"). "none" leaves
            `attention_mask` out; makers without a mask ignore it.
        attentions: The attention implementations that the model has.
        loss: The loss of an output, for a model that computes none.
        outside: Whether a loss outside the model, from its logits, makes sense (label smoothing).
        refused: By check (see `checks.CHECKS`), part of the exact reason why it does not hold.
    """

    name: str
    group: str
    model: str
    config: Mapping[str, Any]
    no_dropout: Mapping[str, Any]
    batch: BatchMaker
    attentions: tuple[str, ...] = ATTENTIONS
    loss: Callable[[Any], torch.Tensor] | None = None
    outside: bool = True
    refused: Mapping[str, str] = field(default_factory=dict)

    def build(self, attention: str, dropout: bool) -> nn.Module:
        """A new model in training mode, the same weights each time."""
        model_class = getattr(transformers, self.model)
        config = model_class.config_class(**merged(self.config, {} if dropout else self.no_dropout))
        torch.manual_seed(0)
        np.random.seed(0)  # SpecAugment in PyTorch
        return model_class._from_config(config, attn_implementation=attention).train()

    def loss_of(self, output: Any) -> torch.Tensor:
        """The loss of an output of the model."""
        return self.loss(output) if self.loss else output.loss


def merged(config: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the values of another on top, nested dictionaries too."""
    result = dict(config)
    for name, value in other.items():
        both = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
        result[name] = merged(result[name], value) if both else value
    return result


def collected(modules: Iterable[str]) -> dict[str, Any]:
    """The `ENTRIES` of some modules of this package, by name, in their order."""
    found = [
        entry
        for module in modules
        for entry in importlib.import_module(f".{module}", __package__).ENTRIES
    ]
    names = [entry.name for entry in found]
    assert len(names) == len(set(names)), "two entries have one name"
    return dict(zip(names, found, strict=True))


@cache
def entries() -> dict[str, Entry]:
    """All entries by name, in the order of the table."""
    return collected(MODULES)


# --- batches -------------------------------------------------------------------------------------


def noise(rows: int, *shape: int) -> torch.Tensor:
    """Normal numbers that depend on the shape alone."""
    generator = torch.Generator().manual_seed(1000 * rows + sum(shape))
    return torch.randn(rows, *shape, generator=generator)


def classes(rows: int) -> torch.Tensor:
    """One of two classes a row, not in balance: gradients that cancel out compare badly."""
    return torch.arange(rows) // 2 % 2


def tokens(rows: int, columns: int, padding: str, pad: int = 0) -> Batch:
    """Random ids and their mask; the last row is padded by a quarter."""
    generator = torch.Generator().manual_seed(1000 * rows + columns)
    ids = torch.randint(3, VOCABULARY, (rows, columns), generator=generator)
    if padding == "none":
        return {"input_ids": ids}
    mask = torch.ones_like(ids)
    length = max(1, columns // 4)
    mask[-1, slice(-length, None) if padding == "right" else slice(length)] = 0
    return {"input_ids": ids.masked_fill(mask == 0, pad), "attention_mask": mask}


def language_modeling(rows: int, columns: int, padding: str, pad: int = 0) -> Batch:
    """Tokens that are their own labels, for causal and for masked language models."""
    batch = tokens(rows, columns, padding, pad)
    mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))
    return {**batch, "labels": batch["input_ids"].masked_fill(mask == 0, -100)}


def classification(rows: int, columns: int, padding: str, pad: int = 0) -> Batch:
    """Tokens with one of two classes a row."""
    return {**tokens(rows, columns, padding, pad), "labels": classes(rows)}


def sequence_to_sequence(rows: int, columns: int, padding: str, pad: int = 0) -> Batch:
    """Tokens with other tokens, fewer of them, as labels."""
    labels = language_modeling(rows + 7, columns - 3, "right", pad)["labels"][7:]
    return {**tokens(rows, columns, padding, pad), "labels": labels}


def images(rows: int, columns: int, padding: str, size: int = 32, channels: int = 3) -> Batch:
    """Images with one of two classes each."""
    return {
        "pixel_values": noise(rows, channels, size, size),
        "labels": classes(rows),
    }


def waves(rows: int, columns: int, padding: str) -> Batch:
    """Sound of 160 samples a column and more, with its mask."""
    samples = 160 * columns
    batch = {"input_values": noise(rows, samples)}
    if padding == "none":
        return batch
    mask = torch.ones(rows, samples, dtype=torch.long)
    quarter = samples // 4
    mask[-1, slice(-quarter, None) if padding == "right" else slice(quarter)] = 0
    return {**batch, "attention_mask": mask}


def speech_to_text(rows: int, columns: int, padding: str, labels: int = 3) -> Batch:
    """Sound with a few of 16 tokens as labels (CTC)."""
    generator = torch.Generator().manual_seed(rows)
    spoken = torch.randint(1, 16, (rows, labels), generator=generator)
    return {**waves(rows, columns, padding), "labels": spoken}


def spoken_classes(rows: int, columns: int, padding: str) -> Batch:
    """Sound with one of two classes a row."""
    return {**waves(rows, columns, padding), "labels": classes(rows)}


def spectrograms(rows: int, columns: int, padding: str, bins: int = 16, frames: int = 32) -> Batch:
    """Log-mel features with tokens as labels."""
    return {
        "input_features": noise(rows, bins, frames),
        "labels": language_modeling(rows, columns, "right")["labels"],
    }


def image_text_pairs(
    rows: int, columns: int, padding: str, size: int = 32, pad: int = 0, end: int = VOCABULARY - 1
) -> Batch:
    """Images with a caption each, for contrastive models."""
    rows = max(rows, 2)  # one pair alone has nothing to be told from
    batch = tokens(rows, columns, padding, pad)
    ids = batch["input_ids"]
    mask = batch.get("attention_mask", torch.ones_like(ids))
    last = (mask * torch.arange(columns)).argmax(-1)
    ids[torch.arange(rows), last] = end  # the text is pooled there
    return {**batch, "pixel_values": noise(rows, 3, size, size), "return_loss": True}
