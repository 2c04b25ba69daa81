"""Generates a small corpus for runs without a network: epic verse made up here, not Homer."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from homer.sample_words import GODS, GRAMMAR, HEROES, PLACES, QUEENS, SCENES
from homer.text import paragraphs, sentences

LABEL = "generated sample, not Homer"
_SEED = 20260101
_SCENES = 900
_SLOT = re.compile(r"\{(\w+)\}")


def _pick(options: Sequence[str], rng: random.Random) -> str:
    # Not rng.choice(): only random() is promised to give the same numbers on every Python.
    return options[int(rng.random() * len(options))]


def _cast(rng: random.Random) -> dict[str, Sequence[str]]:
    """Binds the persons of a scene: {a} is the plain name, {A} one of the epithets with it."""
    cast: dict[str, Sequence[str]] = {"place": [_pick(PLACES, rng)]}
    for slot, table in (("a", HEROES), ("b", HEROES), ("g", GODS), ("q", QUEENS)):
        taken = cast.get("a", ())
        name = _pick([name for name in table if name not in taken], rng)
        cast[slot] = [name]
        cast[slot.upper()] = [epithet.replace("*", name) for epithet in table[name]]
    return cast


def _expanded(
    template: str, cast: dict[str, Sequence[str]], said: set[str], rng: random.Random
) -> str:
    def fill(match: re.Match[str]) -> str:
        slot = match[1]
        if slot in cast:
            return _pick(cast[slot], rng)
        # A scene does not use a pattern twice while it has others.
        fresh = [option for option in GRAMMAR[slot] if option not in said]
        option = _pick(fresh or GRAMMAR[slot], rng)
        said.add(option)
        return _expanded(option, cast, said, rng)

    return _SLOT.sub(fill, template)


def _scene(rng: random.Random) -> str:
    scene = _expanded(_pick(SCENES, rng), _cast(rng), set(), rng)
    # The comma that closes an apposition gives way to the mark that follows it.
    scene = re.sub(r",(?=[,.;:])", "", scene)
    scene = re.sub(r"\ba (?=[aeiou])", "an ", scene)
    # Verse begins each line with a capital, which may stand after a quote.
    return re.sub(r'^("?[a-z])', lambda m: m[1].upper(), scene, flags=re.MULTILINE)


def verse() -> str:
    """Returns the poem, hard-wrapped as verse with a blank line between the paragraphs."""
    rng = random.Random(_SEED)
    return "\n\n".join(_scene(rng) for _ in range(_SCENES)) + "\n"


def corpus() -> list[str]:
    """Returns the sentences of the poem: the same ones each time."""
    return [s for p in paragraphs(verse()) for s in sentences(p)]
