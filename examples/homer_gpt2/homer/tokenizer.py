"""Trains a byte-level BPE tokenizer on the training text, in the manner of GPT-2."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from pathlib import Path

from acpt_trainer import Problem

END_OF_TEXT = "<|endoftext|>"
SMALLEST_VOCABULARY = 257
"""The 256 bytes and the end-of-text token."""
LARGEST_VOCABULARY = 1_000_000
_CONTEXT = 1024


def missing_packages() -> list[Problem]:
    """Returns a problem for each package that is needed and not installed."""
    return [
        Problem(
            f"the package `{name}` is not installed; it trains the tokenizer",
            "--tokenizer_vocab_size",
            "pip install 'acpt-trainer[example]', or leave the option out",
        )
        for name in ("tokenizers", "transformers")
        if importlib.util.find_spec(name) is None
    ]


def train(sentences: Sequence[str], vocab_size: int) -> tuple[dict[str, bytes], int]:
    """Trains the tokenizer; the same text and size give the same files.

    Args:
        sentences: The training text.
        vocab_size: Entries wanted, with the bytes and the end-of-text token. A small text may
            not have that many pairs to merge.

    Returns:
        The files of the tokenizer in Hugging Face format, by name; and its number of entries.
    """
    # Imported here: `--help` and runs without a tokenizer should not wait for them.
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((f"{s}\n" for s in sentences), trainer, length=len(sentences))
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=_CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    with tempfile.TemporaryDirectory() as folder:
        wrapped.save_pretrained(folder)
        files = {p.name: p.read_bytes() for p in sorted(Path(folder).iterdir()) if p.is_file()}
    return files, len(wrapped)
