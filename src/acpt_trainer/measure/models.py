"""A model by folder, name or config, and batches made up for it."""

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
_HEADLINE = "Cannot use the model"


def load_model(name: str, attention: str | None = None, dropout: bool = True) -> nn.Module:
    """Loads a model that computes a loss, in fp32; one from a config alone has random weights.

    Args:
        name: A folder with a model or only its config, a name on the hub, or a config's file.
        attention: Attention implementation, such as `eager` or `sdpa`; the model's own if None.
        dropout: Whether its dropout stays as its config says; else all of it is off.

    Raises:
        ConfigurationError: If there is no such model, or it computes no loss.
    """
    import torch
    from transformers import AutoConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    if _is_path(name) and not Path(name).exists():
        raise ConfigurationError(
            [Problem(f"the model cannot be loaded: there is no {name}", f"--model {name}", _FIX)],
            _HEADLINE,
        )
    try:
        config = AutoConfig.from_pretrained(name)
        if not dropout:
            _switch_off(config)
        cls = _class(config, name)
        path = Path(name)
        only_config = path.is_file() or (path.is_dir() and not _has_weights(path))
        make = (
            partial(cls._from_config, config)
            if only_config
            else partial(cls.from_pretrained, name, config=config)
        )
        chosen = {} if attention is None else {"attn_implementation": attention}
        model = make(dtype=torch.float32, **chosen)  # what `ort` trains in on a CPU
    except ConfigurationError:
        raise
    except Exception as error:  # each config and hub error has a type of its own
        said = next((line for line in str(error).splitlines() if line.strip()), repr(error))
        raise ConfigurationError(
            [Problem(f"the model cannot be loaded: {said[:300]}", f"--model {name}", _FIX)],
            _HEADLINE,
        ) from error
    if not dropout:
        switch_dropout_off(model)
    return cast("nn.Module", model)


def _is_path(name: str) -> bool:
    """Whether it can be no name on the hub, which is `model` or `owner/model`."""
    return name.startswith((".", "/", "~")) or name.endswith(".json") or name.count("/") > 1


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin"))


def switch_dropout_off(model: nn.Module) -> None:
    """Sets every probability of dropping something to zero, in a model that is there."""
    from torch.nn.modules.dropout import _DropoutNd

    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        _switch_off(module)
        if hasattr(getattr(module, "config", None), "to_diff_dict"):
            _switch_off(module.config)


def _switch_off(owner: Any) -> None:
    """Sets what is named so in a module or config to zero, in nested configs too."""
    for key, value in vars(owner).items():
        if isinstance(value, float) and ("drop" in key or key.startswith("mask_")):
            setattr(owner, key, 0.0)
        elif hasattr(value, "to_diff_dict") and value is not owner:
            _switch_off(value)


def _class(config: Any, name: str) -> Any:
    """The first of the config's architectures that takes labels, else its language model."""
    import transformers
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING,
    )

    named = [getattr(transformers, a, None) for a in config.architectures or ()]
    for mapping in (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING):
        if type(config) in mapping:
            named.append(mapping[type(config)])
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
        _HEADLINE,
    )


def sample_batch(
    model: Any, batch_size: int, block_size: int, generator: torch.Generator | None = None
) -> dict[str, torch.Tensor]:
    """A batch of random tokens or images, with labels.

    Args:
        model: The model.
        batch_size: Number of rows.
        block_size: Tokens in a row; of no effect for images.
        generator: Draws the numbers; torch's own if None.

    Raises:
        ConfigurationError: If the model takes something else, or shorter rows.
    """
    import torch

    config, main = model.config, model.main_input_name
    if main == "pixel_values":
        size = getattr(config, "image_size", 224)
        height, width = (size, size) if isinstance(size, int) else size
        channels = getattr(config, "num_channels", 3)
        images = torch.randn(batch_size, channels, height, width, generator=generator)
        return {"pixel_values": images, "labels": _classes(config, (batch_size,), generator)}
    text = config.get_text_config()
    raise_if_any(text_problems(model, block_size), _HEADLINE)
    # Small numbers more often, as words: a loss has then something to learn.
    drawn = torch.rand(batch_size, block_size, generator=generator)
    ids = (drawn.pow(3) * text.vocab_size).long().clamp_(max=text.vocab_size - 1)
    if config.pad_token_id is not None:  # a model may take its place for padding
        ids.masked_fill_(ids == config.pad_token_id, (config.pad_token_id + 1) % text.vocab_size)
    kind = type(model).__name__
    labels = ids
    if kind.endswith("ForSequenceClassification"):
        labels = _classes(config, (batch_size,), generator)
        if config.pad_token_id is None:
            config.pad_token_id = 0  # else rows cannot be told from padding
    elif kind.endswith("ForTokenClassification"):
        labels = _classes(config, (batch_size, block_size), generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def _classes(
    config: Any, shape: tuple[int, ...], generator: torch.Generator | None
) -> torch.Tensor:
    import torch

    if config.num_labels == 1:
        return torch.randn(shape, generator=generator)  # a regression
    return torch.randint(0, config.num_labels, shape, generator=generator)


def text_problems(model: Any, block_size: int) -> list[Problem]:
    """Why no rows of so many tokens can be made up for a model; none for one of images."""
    if model.main_input_name == "pixel_values":
        return []
    text = model.config.get_text_config()
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
