"""Further families of encoders with decoders."""

from __future__ import annotations

from .families import BART, TRANSLATION, family
from .zoo import sequence_to_sequence

# fmt: off
ENTRIES = (
    family("mbart", "text", "MBartForConditionalGeneration", {"d_model": 64,
           "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
           "decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96,
           "vocab_size": 100, "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id":
           0, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2},
           TRANSLATION),
    family("pegasus", "text", "PegasusForConditionalGeneration", {"d_model": 64,
           "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
           "decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96,
           "vocab_size": 100, "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id":
           0, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2},
           TRANSLATION),
    family("blenderbot", "text", "BlenderbotForConditionalGeneration", {"d_model": 64,
           "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
           "decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96,
           "vocab_size": 100, "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id":
           0, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2},
           TRANSLATION),
    family("blenderbot_small", "text", "BlenderbotSmallForConditionalGeneration",
           {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads":
           4, "decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96,
           "vocab_size": 100, "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id":
           0, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2},
           TRANSLATION),
    family("m2m_100", "text", "M2M100ForConditionalGeneration", {"d_model": 64,
           "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
           "decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96,
           "vocab_size": 100, "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id":
           0, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2},
           TRANSLATION),
    family("plbart", "text", "PLBartForConditionalGeneration", {"d_model": 64,
           "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
           "decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96,
           "vocab_size": 100, "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id":
           0, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2},
           TRANSLATION),
    family("pegasus_x", "text", "PegasusXForConditionalGeneration", {"d_model": 64,
           "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
           "decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96,
           "vocab_size": 100, "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id":
           0, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2,
           "num_global_tokens": 4, "block_size": 8, "stagger_local_blocks": False}, TRANSLATION,
           refused={"exact": "2 graphs"}),
    family("bigbird_pegasus", "text", "BigBirdPegasusForConditionalGeneration",
           {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads":
           4, "decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96,
           "vocab_size": 100, "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id":
           0, "eos_token_id": 2, "decoder_start_token_id": 2, "forced_eos_token_id": 2,
           "attention_type": "original_full"}, TRANSLATION),
    family("mvp", "text", "MvpForConditionalGeneration", {"d_model": 64, "encoder_layers":
           2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
           "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "vocab_size": 100,
           "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id":
           2, "decoder_start_token_id": 2, "forced_eos_token_id": 2}, TRANSLATION),
    family("mt5", "text", "MT5ForConditionalGeneration", {"d_model": 64, "d_kv": 16,
           "d_ff": 96, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, "vocab_size":
           100, "decoder_start_token_id": 0, "pad_token_id": 0}, sequence_to_sequence),
    family("umt5", "text", "UMT5ForConditionalGeneration", {"d_model": 64, "d_kv": 16,
           "d_ff": 96, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, "vocab_size":
           100, "decoder_start_token_id": 0, "pad_token_id": 0}, sequence_to_sequence),
    family("prophetnet", "text", "ProphetNetForConditionalGeneration", {"vocab_size": 100,
           "hidden_size": 64, "encoder_ffn_dim": 96, "num_encoder_layers": 2,
           "num_encoder_attention_heads": 4, "decoder_ffn_dim": 96, "num_decoder_layers": 2,
           "num_decoder_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0},
           sequence_to_sequence),
    family("nllb_moe", "text", "NllbMoeForConditionalGeneration", {**BART, "num_experts": 4,
           "encoder_sparse_step": 1, "decoder_sparse_step": 1, "expert_capacity": 64,
           "moe_token_dropout": 0.0}, TRANSLATION,
           refused={"exact": "puts other numbers into a tensor"}),
)
