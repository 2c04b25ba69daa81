"""Reads the source JSON: which files make up the corpus and which rules clean them."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acpt_trainer import Problem, raise_if_any
from homer.download import base_name, is_http
from homer.files import sha256_of

_FLAGS = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL, "x": re.VERBOSE}
_TEXT_KEYS = ("title", "url", "sha256", "encoding", "start", "end")
_TEXT_LISTS = ("drop", "replace")


@dataclass(frozen=True)
class Rule:
    """One regular expression of the source JSON.

    Attributes:
        name: Where it stands in its text, such as `drop[2]`.
        regex: What it matches.
        why: What it is for.
        replacement: What a match becomes.
        matches: How often it must match; None for at least once.
    """

    name: str
    regex: re.Pattern[str]
    why: str
    replacement: str = ""
    matches: int | None = None


@dataclass(frozen=True)
class Text:
    """One text of the corpus.

    Attributes:
        title: What it is called in messages.
        url: Where it is downloaded from; its base name is the name in the cache directory.
        sha256: Digest of the file.
        encoding: Of the file.
        start: Marker after which the text begins.
        end: Marker before which the text ends.
        edits: What to drop and to replace between the markers, in order.
    """

    title: str
    url: str
    sha256: str
    encoding: str
    start: Rule
    end: Rule
    edits: tuple[Rule, ...]


@dataclass(frozen=True)
class Source:
    """All texts of the corpus.

    Attributes:
        label: What the corpus is called.
        texts: In the order in which they are written.
        digest: SHA-256 of the source JSON: changes with every URL, checksum and rule.
    """

    label: str
    texts: tuple[Text, ...]
    digest: str


def load(path: Path) -> Source:
    """Reads and checks a source JSON.

    Raises:
        ConfigurationError: With all problems of the file.
    """
    fix = 'name a source JSON such as the homer_source.json of the example, or "sample"'
    try:
        raw = path.read_bytes()
        content = json.loads(raw)
    except OSError as error:
        what = f"the source JSON cannot be read: {error.strerror}"
        raise_if_any([Problem(what, f"--source {path}", fix)])
    except ValueError as error:
        raise_if_any([Problem(f"not a JSON file: {error}", f"--source {path}", fix)])
    checker = _Checker(path.name)
    label, texts = checker.source(content)
    raise_if_any(checker.problems, f"Cannot use {path.name}")
    return Source(label, texts, sha256_of(raw))


class _Checker:
    """Builds the objects and notes each problem, going on with a stand-in for what is wrong."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.problems: list[Problem] = []

    def note(self, what: str, where: str, fix: str) -> None:
        self.problems.append(Problem(what, f"{self.file}: {where or 'top level'}", fix))

    def source(self, content: Any) -> tuple[str, tuple[Text, ...]]:
        content = self.mapping(content, "", ("label", "texts"), ())
        label = self.string(content, "label", "")
        entries = content.get("texts", [])
        if not isinstance(entries, list) or not entries:
            self.note("`texts` must be a list with at least one text", "texts", "add a text")
            entries = []
        texts = tuple(self.text(entry, f"texts[{i}]") for i, entry in enumerate(entries))
        names = Counter(base_name(text.url) for text in texts)
        for name in sorted(name for name, count in names.items() if name and count > 1):
            fix = "give each text its own file"
            self.note(f"several URLs end in {name}, the name in the cache directory", "texts", fix)
        return label, texts

    def text(self, entry: Any, where: str) -> Text:
        entry = self.mapping(entry, where, _TEXT_KEYS, _TEXT_LISTS)
        values = {key: self.string(entry, key, where) for key in _TEXT_KEYS[:4]}
        self.check_values(values, where)
        start, end = (self.rule(entry.get(key), where, key, ()) for key in ("start", "end"))
        edits = [
            self.rule(rule, where, f"{key}[{i}]", ("with",) if key == "replace" else ())
            for key in _TEXT_LISTS
            for i, rule in enumerate(self.items(entry, key, where))
        ]
        return Text(**values, start=start, end=end, edits=tuple(edits))

    def check_values(self, values: dict[str, str], where: str) -> None:
        url, sha256, encoding = values["url"], values["sha256"], values["encoding"]
        if url and (not is_http(url) or not base_name(url)):
            fix = "only http:// and https:// are fetched; the last part of the path names the file"
            self.note(f"not an http or https URL of a file: {url!r}", f"{where}.url", fix)
        if sha256 and not re.fullmatch("[0-9a-f]{64}", sha256):
            fix = "give 64 lower-case hexadecimal digits, as sha256sum prints them"
            self.note(f"not a SHA-256 digest: {sha256!r}", f"{where}.sha256", fix)
        try:
            codecs.lookup(encoding or "utf-8")
        except LookupError:
            fix = "use a Python codec name: utf-8, ascii, latin-1"
            self.note(f"unknown encoding {encoding!r}", f"{where}.encoding", fix)

    def rule(self, entry: Any, where: str, name: str, extra: tuple[str, ...]) -> Rule:
        here = f"{where}.{name}"
        marker = name in ("start", "end")
        if entry is None and marker:  # already noted as a missing key
            return Rule(name, re.compile(""), "")
        optional = ("flags",) if marker else ("flags", "matches")
        entry = self.mapping(entry, here, ("pattern", "why", *extra), optional)
        pattern, why = (self.string(entry, key, here) for key in ("pattern", "why"))
        replacement = self.string(entry, "with", here, empty=True) if extra else ""
        matches = entry.get("matches")
        if matches is not None and (type(matches) is not int or matches < 1):
            fix = "give the exact number of matches, or leave `matches` out for at least one"
            self.note("not a whole number of at least 1", f"{here}.matches", fix)
        regex = self.regex(pattern, self.string(entry, "flags", here, empty=True), here)
        try:
            # The template is checked with an empty match; a bad group number shows only here.
            re.compile(f"(?:{regex.pattern})|", regex.flags).sub(replacement, "")
        except (re.error, IndexError) as error:
            self.note(f"bad replacement: {error}", f"{here}.with", "groups are written \\1, \\2")
        return Rule(name, regex, why, replacement, matches)

    def regex(self, pattern: str, flags: str, here: str) -> re.Pattern[str]:
        unknown = sorted(set(flags) - set(_FLAGS))
        if unknown:
            fix = f"use letters of {''.join(_FLAGS)}"
            self.note(f"unknown flags {''.join(unknown)!r}", f"{here}.flags", fix)
        combined = re.NOFLAG
        for letter in flags:
            combined |= _FLAGS.get(letter, re.NOFLAG)
        try:
            return re.compile(pattern, combined)
        except re.error as error:
            fix = "mend the regular expression (Python `re`; backslashes are doubled in JSON)"
            self.note(f"not a regular expression: {error}", f"{here}.pattern", fix)
            return re.compile("")

    def mapping(
        self, value: Any, where: str, required: tuple[str, ...], optional: tuple[str, ...]
    ) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.note("must be a JSON object", where, f"write {{...}} with {', '.join(required)}")
            # Stand-in with every key, so that this one problem is not followed by others.
            return dict.fromkeys(required, "") | {"": ""}
        for key in required:
            if key not in value:
                self.note(f"the key `{key}` is missing", where, f"add `{key}`")
        for key in sorted(set(value) - set(required) - set(optional)):
            known = ", ".join((*required, *optional))
            self.note(f"unknown key `{key}`", where, f"remove it; known keys: {known}")
        return value

    def string(self, entry: dict[str, Any], key: str, where: str, empty: bool = False) -> str:
        value = entry.get(key, "")
        if key not in entry or "" in entry:
            return ""
        if not isinstance(value, str) or not (value or empty):
            self.note("must be a string that is not empty", f"{where}.{key}".lstrip("."), "mend it")
            return ""
        return value

    def items(self, entry: dict[str, Any], key: str, where: str) -> list[Any]:
        value = entry.get(key, [])
        if not isinstance(value, list):
            self.note("must be a list of rules", f"{where}.{key}", "write [...]")
            return []
        return value
