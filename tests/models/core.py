"""The 31 model types that ONNX Runtime training is measured by."""

from __future__ import annotations

from functools import partial
from typing import Any

from .zoo import (
    VOCABULARY,
    Entry,
    classification,
    image_text_pairs,
    images,
    language_modeling,
    sequence_to_sequence,
    spectrograms,
    speech_to_text,
    spoken_classes,
)

TINY: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "vocab_size": VOCABULARY, "max_position_embeddings": 64,
}  # fmt: skip
TOKENS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA: dict[str, Any] = {**TINY, **TOKENS, "num_key_value_heads": 2, "attention_dropout": 0.1}
NO_ATTENTION_DROPOUT = {"attention_dropout": 0.0}
NO_BERT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
BERT_DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
BART: dict[str, Any] = {
    **TOKENS, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "vocab_size": VOCABULARY,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64, "max_position_embeddings": 64, "decoder_start_token_id": 2,
    "attention_dropout": 0.1, "activation_dropout": 0.1,
}  # fmt: skip
NO_BART_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}
WAV2VEC2: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "vocab_size": 16, "conv_dim": [16, 16, 16], "conv_kernel": [10, 3, 3],
    "conv_stride": [5, 4, 4], "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4, "layerdrop": 0.0, "mask_time_prob": 0.2,
    "mask_time_length": 2, "mask_feature_prob": 0.1, "mask_feature_length": 2,
}  # fmt: skip
NO_WAV2VEC2_DROPOUT: dict[str, Any] = {
    "hidden_dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0,
    "feat_proj_dropout": 0.0, "feat_quantizer_dropout": 0.0, "final_dropout": 0.0,
    "apply_spec_augment": False,
}  # fmt: skip
TOWER: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "attention_dropout": 0.1,
}  # fmt: skip

_CAUSAL = (
    Entry(
        "gpt2", "text", "GPT2LMHeadModel",
        {"n_layer": 2, "n_head": 4, "n_embd": 32, "vocab_size": VOCABULARY, "n_positions": 64,
         "bos_token_id": 1, "eos_token_id": 2},
        {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}, language_modeling,
    ),
    Entry(
        "gpt_neo", "text", "GPTNeoForCausalLM",
        {"hidden_size": 32, "num_layers": 2, "attention_types": [[["global", "local"], 1]],
         "num_heads": 4, "vocab_size": VOCABULARY, "max_position_embeddings": 64, "window_size": 8,
         "resid_dropout": 0.1, "embed_dropout": 0.1, "attention_dropout": 0.1, "bos_token_id": 1,
         "eos_token_id": 2},
        {"resid_dropout": 0.0, "embed_dropout": 0.0, "attention_dropout": 0.0}, language_modeling,
        attentions=("eager",),
    ),
    Entry(
        "gpt_neox", "text", "GPTNeoXForCausalLM",
        {**TINY, **TOKENS, "attention_dropout": 0.1, "hidden_dropout": 0.1},
        {"attention_dropout": 0.0, "hidden_dropout": 0.0}, language_modeling,
    ),
    Entry(
        "opt", "text", "OPTForCausalLM",
        {**TOKENS, "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64,
         "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCABULARY,
         "max_position_embeddings": 64, "attention_dropout": 0.1},
        {"dropout": 0.0, "attention_dropout": 0.0}, language_modeling,
    ),
    Entry(
        "bloom", "text", "BloomForCausalLM",
        {**TOKENS, "hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY,
         "hidden_dropout": 0.1, "attention_dropout": 0.1},
        {"hidden_dropout": 0.0, "attention_dropout": 0.0}, language_modeling,
        attentions=("eager",),
    ),
    Entry("llama", "text", "LlamaForCausalLM", LLAMA, NO_ATTENTION_DROPOUT, language_modeling),
    Entry(
        "mistral", "text", "MistralForCausalLM", {**LLAMA, "sliding_window": 8},
        NO_ATTENTION_DROPOUT, language_modeling,
    ),
    Entry("qwen2", "text", "Qwen2ForCausalLM", LLAMA, NO_ATTENTION_DROPOUT, language_modeling),
    Entry(
        "qwen3", "text", "Qwen3ForCausalLM", {**LLAMA, "head_dim": 8}, NO_ATTENTION_DROPOUT,
        language_modeling,
    ),
    Entry(
        "phi", "text", "PhiForCausalLM", {**LLAMA, "resid_pdrop": 0.1, "embd_pdrop": 0.1},
        {**NO_ATTENTION_DROPOUT, "resid_pdrop": 0.0, "embd_pdrop": 0.0}, language_modeling,
    ),
    Entry(
        "phi3", "text", "Phi3ForCausalLM", {**LLAMA, "resid_pdrop": 0.1, "embd_pdrop": 0.1},
        {**NO_ATTENTION_DROPOUT, "resid_pdrop": 0.0, "embd_pdrop": 0.0}, language_modeling,
    ),
    Entry(
        "gemma2", "text", "Gemma2ForCausalLM",
        {**LLAMA, "head_dim": 8, "sliding_window": 8, "query_pre_attn_scalar": 8},
        NO_ATTENTION_DROPOUT, language_modeling, attentions=("eager",),
    ),
    Entry(
        "falcon", "text", "FalconForCausalLM",
        {**TOKENS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "vocab_size": VOCABULARY, "attention_dropout": 0.1, "hidden_dropout": 0.1},
        {"attention_dropout": 0.0, "hidden_dropout": 0.0}, language_modeling,
    ),
)  # fmt: skip

_ENCODERS = (
    Entry(
        "bert (masked LM)", "text", "BertForMaskedLM", TINY, NO_BERT_DROPOUT, language_modeling
    ),
    Entry(
        "bert (classification)", "text", "BertForSequenceClassification", TINY,
        NO_BERT_DROPOUT, classification,
    ),
    Entry(
        "roberta", "text", "RobertaForMaskedLM", TINY, NO_BERT_DROPOUT,
        partial(language_modeling, pad=1),
    ),
    Entry(
        "distilbert", "text", "DistilBertForMaskedLM",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": VOCABULARY,
         "max_position_embeddings": 64},
        {"dropout": 0.0, "attention_dropout": 0.0}, language_modeling,
    ),
    Entry(
        "albert", "text", "AlbertForMaskedLM", {**TINY, **BERT_DROPOUT, "embedding_size": 16},
        NO_BERT_DROPOUT, language_modeling,
    ),
    Entry(
        "electra", "text", "ElectraForMaskedLM", {**TINY, "embedding_size": 16}, NO_BERT_DROPOUT,
        language_modeling,
    ),
    Entry(
        "deberta", "text", "DebertaForSequenceClassification",
        {**TINY, "relative_attention": True, "pos_att_type": ["c2p", "p2c"],
         "max_relative_positions": 14}, NO_BERT_DROPOUT,
        classification, attentions=("eager",),
    ),
    Entry(
        "deberta_v2", "text", "DebertaV2ForSequenceClassification",
        {**TINY, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8,
         "share_att_key": True, "norm_rel_ebd": "layer_norm"},
        NO_BERT_DROPOUT, classification, attentions=("eager",),
    ),
)  # fmt: skip

_SEQUENCE_TO_SEQUENCE = (
    Entry(
        "t5", "text", "T5ForConditionalGeneration",
        {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2,
         "num_heads": 4, "vocab_size": VOCABULARY, "decoder_start_token_id": 0},
        {"dropout_rate": 0.0}, sequence_to_sequence,
    ),
    Entry(
        "bart", "text", "BartForConditionalGeneration", BART, NO_BART_DROPOUT,
        sequence_to_sequence,
    ),
    Entry("marian", "text", "MarianMTModel", BART, NO_BART_DROPOUT, sequence_to_sequence),
)  # fmt: skip

_OTHERS = (
    Entry(
        "vit", "vision", "ViTForImageClassification",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 64, "image_size": 32, "patch_size": 8, **BERT_DROPOUT},
        NO_BERT_DROPOUT, images,
    ),
    Entry(
        "swin", "vision", "SwinForImageClassification",
        {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 2],
         "num_heads": [2, 4], "window_size": 4, "drop_path_rate": 0.1, **BERT_DROPOUT},
        {**NO_BERT_DROPOUT, "drop_path_rate": 0.0}, images,
    ),
    Entry(
        "convnext", "vision", "ConvNextForImageClassification",
        {"hidden_sizes": [16, 32, 32, 32], "depths": [1, 1, 1, 1], "image_size": 32,
         "drop_path_rate": 0.5, "layer_scale_init_value": 1.0},
        {"drop_path_rate": 0.0}, images,
        attentions=("eager",),
    ),
    Entry(
        "whisper", "audio", "WhisperForConditionalGeneration",
        {**{k: v for k, v in BART.items() if k != "max_position_embeddings"}, "num_mel_bins": 16,
         "max_source_positions": 16, "max_target_positions": 64, "begin_suppress_tokens": None,
         "suppress_tokens": None, "apply_spec_augment": True, "mask_time_prob": 0.2,
         "mask_time_length": 4, "mask_feature_prob": 0.1, "mask_feature_length": 2},
        {**NO_BART_DROPOUT, "apply_spec_augment": False}, spectrograms,
    ),
    Entry(
        "clip", "multimodal", "CLIPModel",
        {"projection_dim": 16,
         "text_config": {**TOWER, **TOKENS, "vocab_size": VOCABULARY,
                         "max_position_embeddings": 64, "eos_token_id": VOCABULARY - 1},
         "vision_config": {**TOWER, "image_size": 32, "patch_size": 8}},
        {"text_config": NO_ATTENTION_DROPOUT, "vision_config": NO_ATTENTION_DROPOUT},
        image_text_pairs,
    ),
    Entry(
        "wav2vec2 (CTC)", "audio", "Wav2Vec2ForCTC", {**WAV2VEC2, "ctc_loss_reduction": "mean"},
        NO_WAV2VEC2_DROPOUT, speech_to_text, outside=False,
    ),
    Entry(
        "wav2vec2 (classification)", "audio", "Wav2Vec2ForSequenceClassification", WAV2VEC2,
        NO_WAV2VEC2_DROPOUT, spoken_classes,
    ),
)  # fmt: skip

ENTRIES = (*_CAUSAL, *_ENCODERS, *_SEQUENCE_TO_SEQUENCE, *_OTHERS)
