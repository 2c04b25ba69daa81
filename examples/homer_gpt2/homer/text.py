"""Turns one source file into sentences: pure functions that take their rules as arguments."""

from __future__ import annotations

import re

from acpt_trainer import Problem, raise_if_any
from homer.source import Rule, Text

# A sentence ends at . ! ? and the quotes or brackets that close with it, if the next one starts
# with a capital: "O cup! be still" goes on.
_SENTENCE_END = re.compile(r"""([.!?]["')]*) (?=["'(]*[A-Z])""")
_ENDS_SENTENCE = re.compile(r"""[.!?]["')]*$""")


def decoded(raw: bytes, encoding: str) -> str:
    """Returns the text with LF line ends and without a byte order mark.

    Raises:
        UnicodeDecodeError: If the bytes are not in this encoding.
    """
    text = raw.decode(encoding).removeprefix("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def cut(text: str, start: Rule, end: Rule) -> tuple[str, list[str]]:
    """Returns what lies between the two markers, and what is wrong with the markers.

    `start` must match once in the text; `end` once in what follows it. Both are cut off.
    """
    complaints = []
    starts = list(start.regex.finditer(text))
    if len(starts) != 1:
        complaints.append(_miscount(start, len(starts), 1))
    body = text[starts[0].end() :] if starts else text
    ends = list(end.regex.finditer(body))
    if len(ends) != 1:
        complaints.append(_miscount(end, len(ends), 1))
    return body[: ends[0].start()] if ends else body, complaints


def edited(text: str, rules: tuple[Rule, ...]) -> tuple[str, list[str]]:
    """Applies the rules in order; a rule that matches nothing is a complaint."""
    complaints = []
    for rule in rules:
        text, count = rule.regex.subn(rule.replacement, text)
        if count == 0 or (rule.matches is not None and count != rule.matches):
            complaints.append(_miscount(rule, count, rule.matches))
    return text, complaints


def _miscount(rule: Rule, found: int, expected: int | None) -> str:
    wanted = "at least once" if expected is None else f"exactly {expected} time(s)"
    return f"rule {rule.name} ({rule.regex.pattern!r}) matches {found} times, expected {wanted}"


def paragraphs(text: str) -> list[str]:
    """Joins hard-wrapped lines; blank lines separate paragraphs; runs of spaces become one.

    A paragraph that ends within a sentence (before a speech, around an illustration) is joined
    with the next one.
    """
    joined: list[str] = []
    for block in re.split(r"\n[ \t]*\n", text):
        words = " ".join(block.split())
        if not words:
            continue
        if joined and not _ENDS_SENTENCE.search(joined[-1]):
            joined[-1] += f" {words}"
        else:
            joined.append(words)
    return joined


def sentences(paragraph: str) -> list[str]:
    """Splits a paragraph into its sentences; punctuation and quotes stay with them."""
    return _SENTENCE_END.sub(r"\1\n", paragraph).split("\n")


def prepared(raw: bytes, text: Text) -> list[str]:
    """Returns the sentences of one source file.

    Args:
        raw: The file as downloaded.
        text: How to read it and what to cut.

    Raises:
        ConfigurationError: If the file is not in the encoding, or rules do not match as they say.
    """
    fix = "mend the rule in the source JSON; rules are made for one exact file"
    try:
        content = decoded(raw, text.encoding)
    except UnicodeDecodeError as error:
        what = f"the file is not {text.encoding}: {error.reason} at byte {error.start}"
        raise_if_any([Problem(what, f'"{text.title}"', "mend `encoding` in the source JSON")])
    body, complaints = cut(content, text.start, text.end)
    if not complaints:
        body, complaints = edited(body, text.edits)
    found = [s for p in paragraphs(body) for s in sentences(p)] if not complaints else []
    if not complaints and len(found) < 2:
        complaints.append(f"only {len(found)} sentence(s) are left, too few to split")
    where = f'text "{text.title}" of the source JSON'
    raise_if_any([Problem(c, where, fix) for c in complaints], f'Cannot clean "{text.title}"')
    return found
