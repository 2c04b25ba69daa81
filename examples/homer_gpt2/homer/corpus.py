"""Splits the sentences into training and validation, writes them and records what they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homer.files import file_sha256, sha256_of, write_atomically

TRAINING = "training_raw.txt"
VALIDATION = "validation_raw.txt"
RECORD = "corpus.json"
TOKENIZER = "tokenizer"
_PREPARATION = 1
"""Raised when the same source gives other sentences, so that old outputs are made anew."""


@dataclass(frozen=True)
class Request:
    """What a corpus is made from; the same request gives the same bytes.

    Attributes:
        label: What the corpus is called.
        source_sha256: Digest of everything the sentences depend on.
        inputs: Title and digest of each input, for the record.
        split: Percent of the sentences of each text that are for training.
        vocab_size: Size of the tokenizer to train, or None.
    """

    label: str
    source_sha256: str
    inputs: tuple[dict[str, str], ...]
    split: int
    vocab_size: int | None

    def record(self) -> dict[str, Any]:
        """Returns the part of corpus.json that is known before the work is done."""
        return {
            "label": self.label,
            "preparation": _PREPARATION,
            "source_sha256": self.source_sha256,
            "inputs": list(self.inputs),
            "split_percent": self.split,
            "tokenizer_vocab_size": self.vocab_size,
        }


def split_texts(texts: Sequence[Sequence[str]], percent: int) -> tuple[list[str], list[str]]:
    """Returns the training and the validation sentences.

    Each text is cut once, so that validation is a run of sentences the model has not seen, from
    every text. Both parts get at least one sentence of a text that has two.
    """
    training: list[str] = []
    validation: list[str] = []
    for text in texts:
        at = min(max(len(text) * percent // 100, 1), len(text) - 1)
        training += text[:at]
        validation += text[at:]
    return training, validation


def recorded(output_dir: Path) -> dict[str, Any]:
    """Returns the record of an earlier run, empty if there is none that can be read."""
    try:
        record = json.loads((output_dir / RECORD).read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def is_up_to_date(request: Request, output_dir: Path) -> bool:
    """Says whether the outputs of this very request are there and unchanged."""
    record = recorded(output_dir)
    if any(record.get(key) != value for key, value in request.record().items()):
        return False
    outputs = record.get("outputs")
    return (
        isinstance(outputs, dict)
        and {TRAINING, VALIDATION} <= set(outputs)
        and all(file_sha256(output_dir / name) == sha256 for name, sha256 in outputs.items())
    )


def write(
    request: Request,
    texts: Sequence[Sequence[str]],
    output_dir: Path,
    train_tokenizer: Callable[[Sequence[str], int], tuple[dict[str, bytes], int]],
) -> dict[str, Any]:
    """Writes the corpus, its tokenizer if one is asked for, and the record; returns the record.

    Nothing is replaced before everything has been made and is on the disk.

    Args:
        request: What is asked for.
        texts: The sentences of each text.
        output_dir: Where to write; created if needed.
        train_tokenizer: Returns the files of a tokenizer, and its size.
    """
    training, validation = split_texts(texts, request.split)
    record = request.record()
    outputs: dict[str, bytes] = {}
    if request.vocab_size is not None:
        files, size = train_tokenizer(training, request.vocab_size)
        outputs |= {f"{TOKENIZER}/{name}": content for name, content in files.items()}
        record["tokenizer_entries"] = size
    for name, part in ((TRAINING, training), (VALIDATION, validation)):
        outputs[name] = "".join(f"{sentence}\n" for sentence in part).encode()
        key = name.partition("_")[0]
        record[key] = {"sentences": len(part), "characters": len(outputs[name].decode())}
    record["outputs"] = {name: sha256_of(content) for name, content in outputs.items()}
    # The record comes last: outputs that it describes are then complete.
    outputs[RECORD] = (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode()
    write_atomically({output_dir / name: content for name, content in outputs.items()})
    return record
