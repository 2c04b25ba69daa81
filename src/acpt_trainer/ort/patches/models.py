"""What model code of transformers would fix in a graph."""

from __future__ import annotations

from acpt_trainer.ort import mends, rewrites
from acpt_trainer.ort.patch import NOT_REPORTED, Patch, Scope

PATCHES: tuple[Patch, ...] = (
    Patch(
        name="traced-len",
        target="len in transformers' model modules",
        versions="all",
        why="the length of a tensor, such as the batch size in CLIP's contrastive loss, would be "
        "fixed in the graph",
        upstream=NOT_REPORTED,
        until="the models take it from .shape",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=rewrites.trace_len,
    ),
    Patch(
        name="traced-span",
        target="compute_attention_span of DeBERTa",
        versions="transformers 5",
        why="Python takes the smaller of two lengths, and which one it was is fixed in the graph",
        upstream=NOT_REPORTED,
        until="the models take it with torch.minimum",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=rewrites.trace_attention_span,
    ),
    Patch(
        name="bloom-gelu",
        target="transformers.models.bloom.modeling_bloom.GeLUFunction",
        versions="transformers 5",
        why="a custom function, which would need a compiler; its backward is the derivative of its "
        "forward, so the graph's own gradient is the same",
        upstream=NOT_REPORTED,
        until="Bloom uses torch's GELU",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=rewrites.inline_bloom_gelu,
    ),
    Patch(
        name="traced-spec-augment",
        target="_compute_mask_indices of Wav2Vec2, HuBERT, Whisper and others",
        versions="transformers 5",
        why="NumPy draws the masks of SpecAugment, which would be fixed in the graph",
        upstream=NOT_REPORTED,
        until="the models draw them with torch",
        scope=Scope.BUILD,
        needed=mends.always,
        apply=rewrites.trace_spec_augment,
    ),
)
