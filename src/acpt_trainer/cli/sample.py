"""A model by folder, name or config, and a batch made up for it."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from acpt_trainer.errors import ConfigurationError, Problem, raise_if_any

if TYPE_CHECKING:
    import torch
    from torch import nn

_FIX = "give a model folder, a name on the Hugging Face hub, or a config.json"


def load_model(name: str) -> nn.Module:
    """Loads a model that computes a loss, in fp32; one from a config alone has random weights.

    Args:
        name: A folder with a model or only its config, a name on the hub, or a config's file.

    Raises:
        ConfigurationError: If there is no such model, or it computes no loss.
    """
    import torch
    from transformers import AutoConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    try:
        config = AutoConfig.from_pretrained(name)
        cls = _class(config, name)
        path = Path(name)
        only_config = path.is_file() or (path.is_dir() and not _has_weights(path))
        make = (
            partial(cls._from_config, config) if only_config else partial(cls.from_pretrained, name)
        )
        return cast("nn.Module", make(dtype=torch.float32))  # what `ort` trains in on a CPU
    except ConfigurationError:
        raise
    except Exception as error:  # each config and hub error has a type of its own
        said = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise ConfigurationError(
            [Problem(f"the model cannot be loaded: {said[:300]}", f"--model {name}", _FIX)],
            "Cannot write a graph",
        ) from error


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))


def _class(config: Any, name: str) -> Any:
    """The first of the config's architectures that takes labels, else its language model."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    named = [getattr(transformers, a, None) for a in config.architectures or ()]
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        named.append(MODEL_FOR_CAUSAL_LM_MAPPING[type(config)])
    for cls in named:
        if cls is not None and "labels" in inspect.signature(cls.forward).parameters:
            return cls
    raise ConfigurationError(
        [
            Problem(
                f"no model of type {config.model_type!r} that computes a loss is known",
                f"--model {name}",
                "name one that takes labels under `architectures` in its config, such as a "
                "...ForCausalLM or ...ForSequenceClassification",
            )
        ],
        "Cannot write a graph",
    )


def sample_batch(model: Any, batch_size: int, block_size: int) -> dict[str, torch.Tensor]:
    """A batch of random tokens or images, with labels.

    Args:
        model: The model.
        batch_size: Number of rows.
        block_size: Tokens in a row; of no effect for images.

    Raises:
        ConfigurationError: If the model takes something else, or shorter rows.
    """
    import torch

    config, main = model.config, model.main_input_name
    if main == "pixel_values":
        size = getattr(config, "image_size", 224)
        height, width = (size, size) if isinstance(size, int) else size
        channels = getattr(config, "num_channels", 3)
        images = torch.randn(batch_size, channels, height, width)
        return {"pixel_values": images, "labels": _classes(config, (batch_size,))}
    text = config.get_text_config()
    raise_if_any(_text_problems(model, text, block_size), "Cannot write a graph")
    ids = torch.randint(0, text.vocab_size, (batch_size, block_size))
    kind = type(model).__name__
    labels = ids
    if kind.endswith("ForSequenceClassification"):
        labels = _classes(config, (batch_size,))
        if config.pad_token_id is None:
            config.pad_token_id = 0  # else rows cannot be told from padding
    elif kind.endswith("ForTokenClassification"):
        labels = _classes(config, (batch_size, block_size))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def _classes(config: Any, shape: tuple[int, ...]) -> torch.Tensor:
    import torch

    if config.num_labels == 1:
        return torch.randn(shape)  # a regression
    return torch.randint(0, config.num_labels, shape)


def _text_problems(model: Any, text: Any, block_size: int) -> list[Problem]:
    if model.main_input_name != "input_ids" or not getattr(text, "vocab_size", None):
        return [
            Problem(
                f"{type(model).__name__} takes {model.main_input_name}, for which no sample is "
                "made here",
                "--model",
                "give a text or image model, or train a step and call OrtStrategy.write_graph",
            )
        ]
    longest = getattr(text, "max_position_embeddings", None)
    if longest and block_size > longest:
        return [
            Problem(
                f"the model takes at most {longest} tokens",
                f"--block_size {block_size}",
                f"give a --block_size of at most {longest}",
            )
        ]
    return []
