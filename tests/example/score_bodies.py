"""Strategies for bodies that are no request: none of them may be answered with 200 or 5xx."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import strategies as st

GOOD: dict[str, Any] = {"prompt": "The king", "max_new_tokens": 2, "seed": 1}
_HUGE = "a number of 5001 digits"

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
_no_text = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.dictionaries(st.text(), _json)
)
_bad_values = {
    "prompt": _no_text
    | st.sampled_from(
        ["", [], [[]], ["a", ""], ["a", None], ["a"] * 17, "\ud800", ["ok", "\udfff!"]]
    )
    | st.lists(_no_text, min_size=1, max_size=5),
    "max_new_tokens": st.sampled_from([0, -1, 513, 10**400, 1.0, 60.5, True, "60", None, [60], {}]),
    "temperature": st.sampled_from([-1, 0.01, 1e9, 10**400, True, "hot", None, [], math.nan]),
    "top_k": st.sampled_from([-1, 1001, 10**30, 5.0, False, "5", None, [5]]),
    "top_p": st.sampled_from(
        [0, -0.5, 1.01, 10**400, True, "1", None, float("inf"), float("-inf")]
    ),
    "seed": st.sampled_from([-1, 2**32, _HUGE, 1.0, True, "7", None, [7], {"seed": 7}]),
}


def _dumped(value: Any) -> bytes:
    # `json.dumps` writes NaN and halves of surrogate pairs, as a careless client does. Python
    # itself refuses to print a number of thousands of digits, so that is put in afterwards.
    return json.dumps(value).replace(f'"{_HUGE}"', "1" + "0" * 5000).encode()


@st.composite
def _one_field_bad(draw: st.DrawFn) -> bytes:
    name = draw(st.sampled_from(sorted(_bad_values)))
    return _dumped(GOOD | {name: draw(_bad_values[name])})


@st.composite
def _unknown_key(draw: st.DrawFn) -> bytes:
    key = draw(st.text(max_size=60).filter(lambda k: k not in _bad_values))
    return _dumped(GOOD | {key: draw(_json)})


_LARGE = {"deep": b"[" * 60_000, "deep too": b'{"a":' * 10_000, "long": b"a" * 70_000}
_made_by_hand = st.sampled_from(
    [
        b"",
        b"null",
        b"[]",
        b'"prompt"',
        b"{}",
        b'{"max_new_tokens": 3}',
        b"{'prompt': 'a'}",
        b'{"prompt": "a", "prompt": "b"}',
        b'{"prompt": "a", "seed": NaN}',
        b'{"prompt": "a", "temperature": 1e999}',
        b'{"prompt": "a"}{}',
        b'\xef\xbb\xbf{"prompt": "a"}',
        b'{"prompt": "\xff"}',
        '{"prompt": "a"}'.encode("utf-16"),
        b"prompt=The+king",
    ]
)

BAD_BODIES = st.one_of(
    _made_by_hand,
    st.sampled_from(sorted(_LARGE)).map(_LARGE.__getitem__),
    _one_field_bad(),
    _unknown_key(),
    st.binary(max_size=200),
    _json.map(_dumped),
)
