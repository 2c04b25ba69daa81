"""From lines of text to blocks of tokens: tokenised in parallel, packed, cached, one rank first."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acpt_trainer import ConfigurationError, Problem

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


_VERSION = 1
"""Raised when the same text gives other blocks: part of the key under which they are cached."""


def pack(
    columns: Mapping[str, list[list[int]]], block_size: int, version: int = _VERSION
) -> dict[str, list[list[int]]]:
    """Joins token lists and cuts them into blocks of one size.

    Args:
        columns: `input_ids`, a list of token lists.
        block_size: Tokens in a block.
        version: For the cache's key alone.

    Returns:
        `input_ids` and `labels`, blocks of `block_size` tokens; the rest that fills no block is
        left out.

    Example:
        >>> pack({"input_ids": [[1, 2, 3], [4, 5]]}, 2)["input_ids"]
        [[1, 2], [3, 4]]
    """
    ids = list(chain.from_iterable(columns["input_ids"]))
    whole = len(ids) // block_size * block_size
    blocks = [ids[i : i + block_size] for i in range(0, whole, block_size)]
    return {"input_ids": blocks, "labels": [list(block) for block in blocks]}


def load_blocks(
    path: Path, tokenizer: PreTrainedTokenizerBase, block_size: int, workers: int, option: str
) -> Dataset:
    """Reads a text file as blocks of tokens.

    Both steps are cached by `datasets`, keyed by the file, the tokenizer and the options.

    Args:
        path: Text, one sentence a line.
        tokenizer: Tokenises a line followed by a space: sentences follow each other as in prose.
        block_size: Tokens in a block.
        workers: Processes that tokenise.
        option: The option that named the file, for messages.

    Returns:
        A data set with `input_ids` and `labels`.

    Raises:
        ConfigurationError: If the file is not UTF-8 text.
    """
    from datasets import Dataset, disable_progress_bars
    from datasets.exceptions import DatasetGenerationError

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        lines = Dataset.from_text(str(path))
    except DatasetGenerationError as error:
        reason = error.__cause__ or error
        problem = Problem(
            f"the text cannot be read: {reason}", f"{option} {path}", "save it as UTF-8"
        )
        raise ConfigurationError([problem], "Cannot train on this text") from error
    workers = max(1, min(workers, len(lines) // 1000))
    tokens = lines.map(
        _tokenize,
        batched=True,
        remove_columns=["text"],
        num_proc=workers if workers > 1 else None,
        fn_kwargs={"tokenizer": tokenizer, "version": _VERSION},
        desc=f"tokenise {path.name}",
    )
    return tokens.map(
        pack,
        batched=True,
        # One batch, or each would end with tokens that fill no block.
        batch_size=max(1, len(tokens)),
        remove_columns=tokens.column_names,
        fn_kwargs={"block_size": block_size, "version": _VERSION},
        desc=f"pack {path.name}",
    )


def _tokenize(
    batch: Mapping[str, list[str]], tokenizer: Any, version: int
) -> dict[str, list[list[int]]]:
    lines = [f"{line} " for line in batch["text"]]
    return {"input_ids": tokenizer(lines, return_attention_mask=False)["input_ids"]}


def too_short(blocks: Dataset, option: str, path: Path, block_size: int) -> list[Problem]:
    """The problem that a text does not fill one block."""
    if len(blocks):
        return []
    return [
        Problem(
            f"the text does not fill one block of {block_size} tokens",
            f"{option} {path}",
            "lower --block_size, or prepare more text",
        )
    ]
