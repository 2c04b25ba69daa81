"""Parts of transformers' models written anew for the tracer, held while a graph is exported.

A tracer records what happens to tensors. What Python or NumPy computes from a tensor is recorded as
the number that came out, and would be that number for ever. Each rewrite computes the same with
tensors; the model's own code is back when the graph is built.
"""

from __future__ import annotations

import builtins
import sys
import types
from contextlib import ExitStack
from typing import Any

from acpt_trainer.ort.mends import set_attribute

_MODELS = ("transformers.models.", "transformers_modules.")
"""Where model code lives: in transformers, and what came with a checkpoint."""


def replace(stack: ExitStack, name: str, value: Any) -> None:
    """Puts a function in place of that of the same name, in every model module that has one."""
    for module in _model_modules():
        if name in vars(module):
            set_attribute(stack, module, name, value)


def _model_modules() -> list[types.ModuleType]:
    return [
        module
        for name, module in list(sys.modules.items())
        if module is not None and name.startswith(_MODELS) and ".modeling_" in name
    ]


# --- lengths -------------------------------------------------------------------------------------


def traced_len(value: Any) -> Any:
    """`len`, which for a traced tensor is a value of the graph; Python's own is an int."""
    import torch

    if torch.is_tensor(value) and torch.jit.is_tracing() and value.dim():
        return value.shape[0]
    return builtins.len(value)


def trace_len(stack: ExitStack) -> None:
    """Gives the model modules a `len` that the tracer sees."""
    for module in _model_modules():
        set_attribute(stack, module, "len", traced_len)


def attention_span(query_layer: Any, key_layer: Any, max_relative_positions: int) -> Any:
    """DeBERTa's span of relative positions; its own takes Python's `min` and `max` of lengths."""
    import torch

    longest = torch.maximum(
        torch._shape_as_tensor(query_layer)[-2], torch._shape_as_tensor(key_layer)[-2]
    )
    return torch.clamp(longest, max=max_relative_positions)


def trace_attention_span(stack: ExitStack) -> None:
    """Puts `attention_span` in place."""
    replace(stack, "compute_attention_span", attention_span)


# --- custom functions ----------------------------------------------------------------------------


def inline_bloom_gelu(stack: ExitStack) -> None:
    """Lets the graph differentiate Bloom's GELU, whose hand-written backward is its derivative."""
    bloom = sys.modules.get("transformers.models.bloom.modeling_bloom")
    if bloom is not None:
        formula = types.SimpleNamespace(apply=bloom.bloom_gelu_forward)
        set_attribute(stack, bloom, "GeLUFunction", formula)


# --- SpecAugment ---------------------------------------------------------------------------------


def spec_augment_mask(
    shape: tuple[Any, Any],
    mask_prob: float,
    mask_length: int,
    attention_mask: Any = None,
    min_masks: int = 0,
) -> Any:
    """Random spans to mask (SpecAugment), of the distribution of transformers' NumPy function.

    Rows shorter than a span are left as they are, where transformers' raises.

    Args:
        shape: Rows and columns, traced.
        mask_prob: Share of the columns that spans cover, overlaps counted twice.
        mask_length: Columns of a span.
        attention_mask: Which columns of a row count, padded right.
        min_masks: The least number of spans in a row.

    Returns:
        Booleans of that shape.
    """
    import torch

    rows, columns = shape
    if mask_length < 1:
        raise ValueError("`mask_length` has to be bigger than 0.")
    device = "cpu" if attention_mask is None else attention_mask.device
    rounding = torch.rand((), device=device)
    positions = torch.arange(columns, device=device)[None]
    longest = (positions[:, -1:] + 1).expand(rows, 1)
    lengths = longest if attention_mask is None else attention_mask.sum(-1, keepdim=True)

    def spans(length: Any) -> Any:
        wanted = (mask_prob * length / mask_length + rounding).floor().long().clamp(min=min_masks)
        fit = torch.where(wanted * mask_length > longest, longest // mask_length, wanted)
        return torch.minimum(fit, (length - (mask_length - 1)).clamp(min=0))

    number = spans(lengths)
    drawn = torch.rand((rows, columns), device=device)
    drawn = torch.where(positions < lengths - (mask_length - 1), drawn, 2.0)
    # The spans start at the smallest of the numbers drawn: a choice without replacement.
    last = torch.sort(drawn, dim=-1).values.gather(-1, (number - 1).clamp(min=0))
    starts = ((drawn <= last) & (number > 0)).long().cumsum(-1)
    before = torch.nn.functional.pad(starts, (mask_length, 0))[:, :columns]
    # A row too short for a span has its last column masked, which is padding.
    filler = (number == 0) & (spans(longest) > 0) & (positions == longest - 1)
    return (starts > before) | filler


def trace_spec_augment(stack: ExitStack) -> None:
    """Puts `spec_augment_mask` in place."""
    replace(stack, "_compute_mask_indices", spec_augment_mask)
