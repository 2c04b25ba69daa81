"""What an entry of a further family is: its dropout is found in its config."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, partial
from typing import Any

import torch
import transformers
from torch import nn

from .zoo import (
    VOCABULARY,
    BatchMaker,
    Entry,
    collected,
    images,
    language_modeling,
    sequence_to_sequence,
)

MODULES = ("text_decoders", "text_encoders", "sequences", "vision", "audio")

PADDED_BY_1 = partial(language_modeling, pad=1)
TRANSLATION = partial(sequence_to_sequence, pad=1)
LARGE_IMAGES = partial(images, size=64)

# fmt: off
TINY: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
    "vocab_size": VOCABULARY, "max_position_embeddings": 64,
}
LLAMA = {**TINY, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
BART: dict[str, Any] = {
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96,
    "vocab_size": VOCABULARY, "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id": 0,
    "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2,
}
T5: dict[str, Any] = {
    "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_decoder_layers": 2,
    "num_heads": 4, "vocab_size": VOCABULARY, "decoder_start_token_id": 0, "pad_token_id": 0,
}
IMAGE: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
    "image_size": 32, "patch_size": 8,
}
WAVES: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
    "vocab_size": 16, "conv_dim": [16, 16, 16], "conv_kernel": [10, 3, 3],
    "conv_stride": [5, 4, 4], "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
# fmt: on


class Family(Entry):
    """One family, tiny, with the attention implementation that transformers takes by itself."""

    def build(self, attention: str, dropout: bool) -> nn.Module:
        """A new model in training mode, the same weights each time."""
        model_class = getattr(transformers, self.model)
        config = model_class.config_class(**self.config)
        set_dropout(config, 0.1 if dropout else 0.0)
        torch.manual_seed(0)
        return model_class(config).train()


def family(
    name: str,
    group: str,
    model: str,
    config: Mapping[str, Any],
    batch: BatchMaker,
    refused: Mapping[str, str] | None = None,
) -> Family:
    """A family; see `Entry`."""
    return Family(
        name, group, model, config, {}, batch, attentions=("default",), refused=refused or {}
    )


def set_dropout(config: Any, rate: float) -> None:
    """Sets each dropout of a config, and those of the configs in it; switches masking off."""
    for name, value in list(vars(config).items()):
        if isinstance(value, transformers.PretrainedConfig):
            set_dropout(value, rate)
        elif name == "apply_spec_augment":
            config.apply_spec_augment = False
        elif name in ("mask_time_prob", "mask_feature_prob"):
            setattr(config, name, 0.0)  # not every family asks `apply_spec_augment`
        elif isinstance(value, float) and "drop" in name:
            whole = any(word in name for word in ("layer", "path", "token"))
            setattr(config, name, 0.0 if whole else rate)


@cache
def families() -> dict[str, Family]:
    """All families by name."""
    return collected(f"families_{module}" for module in MODULES)
