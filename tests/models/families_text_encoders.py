"""Further families of text encoders."""

from __future__ import annotations

from .families import PADDED_BY_1, TINY, family
from .zoo import classification, language_modeling

# fmt: off
ENTRIES = (
    family("modernbert", "text", "ModernBertForMaskedLM", {**TINY, "vocab_size": 100,
           "local_attention": 8, "pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2,
           "bos_token_id": 1, "eos_token_id": 2}, language_modeling),
    family("camembert", "text", "CamembertForMaskedLM", {**TINY, "vocab_size": 100},
           PADDED_BY_1),
    family("xlm_roberta", "text", "XLMRobertaForMaskedLM", {**TINY, "vocab_size": 100},
           PADDED_BY_1),
    family("xlm_roberta_xl", "text", "XLMRobertaXLForMaskedLM", {**TINY, "vocab_size":
           100}, PADDED_BY_1),
    family("roberta_prelayernorm", "text", "RobertaPreLayerNormForMaskedLM", {**TINY,
           "vocab_size": 100}, PADDED_BY_1),
    family("mpnet", "text", "MPNetForMaskedLM", {**TINY, "vocab_size": 100}, PADDED_BY_1),
    family("rembert", "text", "RemBertForMaskedLM", {**TINY, "vocab_size": 100,
           "input_embedding_size": 32, "output_embedding_size": 32}, language_modeling),
    family("ernie", "text", "ErnieForMaskedLM", {**TINY, "vocab_size": 100},
           language_modeling),
    family("ibert", "text", "IBertForMaskedLM", {**TINY, "vocab_size": 100}, PADDED_BY_1,
           refused={"exact": "changes its own tensor"}),
    family("megatron_bert", "text", "MegatronBertForMaskedLM", {**TINY, "vocab_size":
           100}, language_modeling),
    family("data2vec_text", "text", "Data2VecTextForMaskedLM", {**TINY, "vocab_size":
           100}, PADDED_BY_1),
    family("roformer", "text", "RoFormerForMaskedLM", {**TINY, "vocab_size": 100,
           "embedding_size": 64}, language_modeling),
    family("mobilebert", "text", "MobileBertForMaskedLM", {**TINY, "vocab_size": 100,
           "embedding_size": 32, "intra_bottleneck_size": 32, "num_feedforward_networks": 2,
           "true_hidden_size": 32}, language_modeling),
    family("squeezebert", "text", "SqueezeBertForMaskedLM", {**TINY, "vocab_size": 100,
           "embedding_size": 64, "q_groups": 2, "k_groups": 2, "v_groups": 2,
           "post_attention_groups": 1, "intermediate_groups": 2, "output_groups": 2},
           language_modeling),
    family("convbert", "text", "ConvBertForMaskedLM", {**TINY, "vocab_size": 100,
           "embedding_size": 64, "conv_kernel_size": 3, "head_ratio": 2}, language_modeling),
    family("big_bird", "text", "BigBirdForMaskedLM", {**TINY, "vocab_size": 100,
           "attention_type": "original_full"}, language_modeling),
    family("yoso", "text", "YosoForMaskedLM", {**TINY, "vocab_size": 100,
           "use_expectation": True}, language_modeling,
           refused={"exact": "the custom torch.autograd.Function"}),
    family("esm", "text", "EsmForMaskedLM", {**TINY, "vocab_size": 100, "pad_token_id": 1,
           "mask_token_id": 3, "position_embedding_type": "rotary", "token_dropout": True},
           PADDED_BY_1),
    family("nomic_bert", "text", "NomicBertForMaskedLM", {**TINY, "vocab_size": 100},
           language_modeling),
    family("eurobert", "text", "EuroBertForMaskedLM", {**TINY, "vocab_size": 100,
           "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
           "mask_token_id": 3}, language_modeling),
    family("xmod", "text", "XmodForMaskedLM", {**TINY, "vocab_size": 100, "languages":
           ["en_XX"], "default_language": "en_XX"}, PADDED_BY_1),
    family("canine", "text", "CanineForSequenceClassification", {"hidden_size": 64,
           "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
           "max_position_embeddings": 64, "num_hash_functions": 2, "num_hash_buckets": 50,
           "local_transformer_stride": 64, "downsampling_rate": 4, "upsampling_kernel_size": 4},
           classification, refused={"exact": "3 graphs"}),
    family("xlm", "text", "XLMWithLMHeadModel", {"vocab_size": 100, "emb_dim": 64,
           "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64, "pad_index": 0,
           "unk_index": 3, "mask_index": 4}, language_modeling, refused={"exact": "2 graphs"}),
    family("xlnet", "text", "XLNetForSequenceClassification", {"vocab_size": 100,
           "d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 96}, classification),
)
