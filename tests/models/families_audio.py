"""Further families of audio models."""

from __future__ import annotations

from .families import TINY, WAVES, family
from .zoo import speech_to_text, spoken_classes

# fmt: off
ENTRIES = (
    family("hubert", "audio", "HubertForSequenceClassification", {**WAVES},
           spoken_classes),
    family("wavlm", "audio", "WavLMForSequenceClassification", {**WAVES, "num_buckets":
           32, "max_bucket_distance": 64}, spoken_classes),
    family("unispeech", "audio", "UniSpeechForSequenceClassification", {**WAVES},
           spoken_classes),
    family("unispeech_sat", "audio", "UniSpeechSatForSequenceClassification", {**WAVES},
           spoken_classes),
    family("sew", "audio", "SEWForSequenceClassification", {**WAVES, "squeeze_factor": 2},
           spoken_classes, refused={"exact": "Expected a sum"}),
    family("sew_d", "audio", "SEWDForSequenceClassification", {**TINY, "vocab_size": 16,
           "conv_dim": [16, 16, 16], "conv_kernel": [10, 3, 3], "conv_stride": [5, 4, 4],
           "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16,
           "num_conv_pos_embedding_groups": 4, "squeeze_factor": 2, "position_buckets": 16},
           spoken_classes, refused={"exact": "XSoftmax"}),
    family("data2vec_audio", "audio", "Data2VecAudioForSequenceClassification", {**WAVES,
           "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5}, spoken_classes),
    family("wav2vec2_conformer", "audio", "Wav2Vec2ConformerForSequenceClassification",
           {**WAVES, "conv_depthwise_kernel_size": 5}, spoken_classes,
           refused={"exact": "batch_norm.num_batches_tracked"}),
    family("hubert_ctc", "audio", "HubertForCTC", {**WAVES, "ctc_loss_reduction": "mean"},
           speech_to_text),
)
