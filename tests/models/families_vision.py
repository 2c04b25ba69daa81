"""Further families of vision models."""

from __future__ import annotations

from .families import LARGE_IMAGES, family
from .zoo import images

# fmt: off
ENTRIES = (
    family("deit", "vision", "DeiTForImageClassification", {"hidden_size": 64,
           "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
           "image_size": 32, "patch_size": 8}, images),
    family("beit", "vision", "BeitForImageClassification", {"hidden_size": 64,
           "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
           "image_size": 32, "patch_size": 8, "use_relative_position_bias": True}, images,
           refused={"exact": "ResizeGrad"}),
    family("beit_abs", "vision", "BeitForImageClassification", {"hidden_size": 64,
           "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
           "image_size": 32, "patch_size": 8, "use_absolute_position_embeddings": True}, images,
           refused={"exact": "ResizeGrad"}),
    family("data2vec_vision", "vision", "Data2VecVisionForImageClassification",
           {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
           "intermediate_size": 96, "image_size": 32, "patch_size": 8,
           "use_relative_position_bias": True}, images, refused={"exact": "ResizeGrad"}),
    family("dinov2", "vision", "Dinov2ForImageClassification", {"hidden_size": 64,
           "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
           "image_size": 32, "patch_size": 8}, images, refused={"exact": "ResizeGrad"}),
    family("dinov2_with_registers", "vision", "Dinov2WithRegistersForImageClassification",
           {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
           "intermediate_size": 96, "image_size": 32, "patch_size": 8, "num_register_tokens": 2},
           images, refused={"exact": "_upsample_bicubic2d_aa"}),
    family("vit_msn", "vision", "ViTMSNForImageClassification", {"hidden_size": 64,
           "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
           "image_size": 32, "patch_size": 8}, images),
    family("ijepa", "vision", "IJepaForImageClassification", {"hidden_size": 64,
           "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
           "image_size": 32, "patch_size": 8}, images),
    family("swinv2", "vision", "Swinv2ForImageClassification", {"image_size": 32,
           "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4],
           "window_size": 4}, images),
    family("segformer", "vision", "SegformerForImageClassification", {"depths": [1, 1, 1,
           1], "hidden_sizes": [16, 16, 32, 32], "num_attention_heads": [1, 2, 2, 4],
           "sr_ratios": [4, 2, 1, 1], "decoder_hidden_size": 16, "image_size": 64},
           LARGE_IMAGES),
    family("poolformer", "vision", "PoolFormerForImageClassification", {"depths": [1, 1,
           1, 1], "hidden_sizes": [16, 16, 32, 32]}, LARGE_IMAGES, refused={"exact":
           "count_include_pad"}),
    family("pvt", "vision", "PvtForImageClassification", {"image_size": 64, "depths": [1,
           1, 1, 1], "hidden_sizes": [16, 16, 32, 32], "num_attention_heads": [1, 2, 2, 4],
           "sequence_reduction_ratios": [4, 2, 1, 1], "mlp_ratios": [2, 2, 2, 2]}, LARGE_IMAGES,
           refused={"exact": "ResizeGrad"}),
    family("pvt_v2", "vision", "PvtV2ForImageClassification", {"image_size": 64, "depths":
           [1, 1, 1, 1], "hidden_sizes": [16, 16, 32, 32], "num_attention_heads": [1, 2, 2, 4],
           "sr_ratios": [4, 2, 1, 1], "mlp_ratios": [2, 2, 2, 2]}, LARGE_IMAGES),
    family("focalnet", "vision", "FocalNetForImageClassification", {"image_size": 32,
           "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "focal_levels": [2, 2],
           "focal_windows": [3, 3]}, images),
    family("focalnet_ln", "vision", "FocalNetForImageClassification", {"image_size": 32,
           "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "focal_levels": [2, 2],
           "focal_windows": [3, 3], "use_layerscale": True, "use_post_layernorm": True,
           "use_conv_embed": True}, images),
    family("convnextv2", "vision", "ConvNextV2ForImageClassification", {"hidden_sizes":
           [16, 16, 32, 32], "depths": [1, 1, 1, 1], "image_size": 32}, images),
    family("hiera", "vision", "HieraForImageClassification", {"image_size": [32, 32],
           "patch_size": [7, 7], "patch_stride": [4, 4], "patch_padding": [3, 3], "embed_dim":
           16, "depths": [1, 1], "num_heads": [1, 2], "query_stride": [2, 2], "masked_unit_size":
           [4, 4], "num_query_pool": 1}, images),
    family("bit", "vision", "BitForImageClassification", {"embedding_size": 32,
           "hidden_sizes": [32, 64], "depths": [1, 1], "num_groups": 8}, images),
)
