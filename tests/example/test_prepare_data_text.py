"""Cleaning of the texts and checks of the source JSON, on a small made-up file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from homer import corpus, source, text
from made_up_book import BOOK, SENTENCES, entry

from acpt_trainer import ConfigurationError

SHIPPED_SOURCE = Path(source.__file__).resolve().parents[1] / "homer_source.json"


def loaded(tmp_path: Path, *texts: dict[str, Any], **changes: Any) -> source.Source:
    path = tmp_path / "checked.json"
    path.write_text(json.dumps({"label": "Kettles", "texts": list(texts)} | changes))
    return source.load(path)


def test_only_the_verse_is_left_as_sentences(tmp_path: Path) -> None:
    book = loaded(tmp_path, entry()).texts[0]
    assert text.prepared(BOOK.encode(), book) == SENTENCES


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"start": {"pattern": "^NOWHERE$", "why": "x"}}, "start"),
        ({"end": {"pattern": "[aeiou]", "why": "matches too often"}}, "end"),
        ({"drop": [{"pattern": "o"}, {"pattern": "zzz"}]}, "drop[1]"),
        ({"drop": [{"pattern": "kettle", "matches": 7}]}, "drop[0]"),
        ({"replace": [{"pattern": "zzz", "with": ""}]}, "replace[0]"),
    ],
)
def test_rule_that_does_not_match_is_named(
    tmp_path: Path, changes: dict[str, Any], rule: str
) -> None:
    for rules in changes.values():
        for each in rules if isinstance(rules, list) else [rules]:
            each.setdefault("why", "test")
    book = loaded(tmp_path, entry(**changes)).texts[0]
    with pytest.raises(ConfigurationError) as caught:
        text.prepared(BOOK.encode(), book)
    assert f"rule {rule} " in str(caught.value)
    assert "The book.txt" in str(caught.value)


def test_wrong_encoding_is_named(tmp_path: Path) -> None:
    book = loaded(tmp_path, entry(encoding="ascii")).texts[0]
    with pytest.raises(ConfigurationError, match=r"not ascii.*at byte 0"):
        text.prepared(BOOK.encode(), book)


def test_each_text_is_cut_once_at_the_percentage() -> None:
    texts = [[f"a{i}" for i in range(10)], [f"b{i}" for i in range(5)], ["c0", "c1"]]
    training, validation = corpus.split_texts(texts, 80)
    assert training == [*texts[0][:8], *texts[1][:4], "c0"]
    assert validation == [*texts[0][8:], *texts[1][4:], "c1"]


@pytest.mark.parametrize("percent", [1, 99])
def test_neither_part_is_empty(percent: int) -> None:
    assert corpus.split_texts([["a", "b"]], percent) == (["a"], ["b"])


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_line_ends_and_byte_order_mark_are_normalised(ends: str) -> None:
    assert text.decoded(f"\ufeffa{ends}{ends}b".encode(), "utf-8") == "a\n\nb"


def test_all_problems_of_the_source_are_reported_together(tmp_path: Path) -> None:
    bad = entry(
        url="ftp://host.invalid/book.txt",
        sha256="abc",
        encoding="utf-99",
        start={"pattern": "(", "why": "x"},
        end={"pattern": "x", "flags": "q", "why": "x"},
        drop=[{"pattern": "x"}, {"pattern": "x", "why": "x", "matches": 0}, "no rule"],
        replace=[{"pattern": "x", "with": "\\7", "why": "x"}],
        colour="red",
    )
    del bad["title"]
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, bad, entry(), entry())
    found = {
        (p.where.removeprefix("checked.json: "), p.what.split(":")[0])
        for p in caught.value.problems
    }
    assert found == {
        ("texts[0]", "the key `title` is missing"),
        ("texts[0]", "unknown key `colour`"),
        ("texts[0].url", "not an http or https URL of a file"),
        ("texts[0].sha256", "not a SHA-256 digest"),
        ("texts[0].encoding", "unknown encoding 'utf-99'"),
        ("texts[0].start.pattern", "not a regular expression"),
        ("texts[0].end.flags", "unknown flags 'q'"),
        ("texts[0].drop[0]", "the key `why` is missing"),
        ("texts[0].drop[1].matches", "not a whole number of at least 1"),
        ("texts[0].drop[2]", "must be a JSON object"),
        ("texts[0].replace[0].with", "bad replacement"),
        ("texts", "several URLs end in book.txt, the name in the cache directory"),
    }


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", '{"label": "", "texts": 3}', '{"label": "x", "texts": [7]}', "{", "null"],
)
def test_malformed_source_is_a_users_mistake(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError):
        source.load(path)


def test_shipped_source_is_valid_and_says_why_of_each_rule() -> None:
    shipped = source.load(SHIPPED_SOURCE)
    assert [base.title for base in shipped.texts] == ["The Iliad", "The Odyssey"]
    rules = [r for t in shipped.texts for r in (t.start, t.end, *t.edits)]
    assert all(len(rule.why) > 10 for rule in rules)
