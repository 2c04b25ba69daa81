"""A small made-up source file for the tests of the data preparation, and what they share."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from homer import download

# Made up for these tests, with the furniture of a Gutenberg file around it.
BOOK = """\ufeffThe Project Gutenberg EBook of Nothing\r
\r
*** START OF THE EBOOK ***\r
\r
A preface. Not wanted.\r
\r
THE POEM.\r
\r
  The kettle sang(1) upon the\r
  iron stove;   "Who drank my tea?" it cried. And then,\r
\r
       [Illustration: A KETTLE.]\r
\r
               A KETTLE.\r
\r
  the spoons\u2019 own voices fell. O cup! be still.\r
\r
  "We did not!" 'Tis the\r
  truth. (So said the spoons.) They slept.\r
\r
END OF THE POEM\r
\r
FOOTNOTES 1 Kettles do not sing.\r
"""
SENTENCES = [
    'The kettle sang upon the iron stove; "Who drank my tea?" it cried.',
    "And then, the spoons' own voices fell.",
    "O cup! be still.",
    '"We did not!"',
    "'Tis the truth.",
    "(So said the spoons.)",
    "They slept.",
]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def entry(name: str = "book.txt", body: bytes = BOOK.encode(), **changes: Any) -> dict[str, Any]:
    return {
        "title": f"The {name}",
        "url": f"http://host.invalid/files/{name}",
        "sha256": sha256(body),
        "encoding": "utf-8",
        "start": {"pattern": "^THE POEM\\.$", "flags": "m", "why": "front matter"},
        "end": {"pattern": "^END OF THE POEM$", "flags": "m", "why": "back matter"},
        "drop": [
            {"pattern": "\\[Illustration: .*\\]\\n\\n.+\\n", "matches": 1, "why": "captions"},
            {"pattern": "\\(\\d+\\)", "why": "footnote markers"},
        ],
        "replace": [{"pattern": "\u2019", "with": "'", "why": "apostrophes"}],
    } | changes


def contents(folder: Path) -> dict[str, bytes]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def forbid_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> bytes:
        raise AssertionError("a download was started")

    monkeypatch.setattr(download, "_download", refuse)
