"""The validator of score.py: what is refused, and that nothing else is."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from score_bodies import BAD_BODIES, GOOD
from score_request import LARGEST_SEED, Limits, RequestError, ScoreRequest, parse

LIMITS = Limits()


def body(**changes: Any) -> bytes:
    return json.dumps(GOOD | changes).encode()


def refusal(content: bytes) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse(content, LIMITS)
    return caught.value


def test_parse_fills_in_the_defaults() -> None:
    made = parse(b'{"prompt": "The king"}', LIMITS)
    assert made == ScoreRequest(("The king",), 60, 0.9, 50, 1.0, made.seed)


def test_parse_gives_a_seed_that_differs_and_can_be_sent() -> None:
    seeds = {parse(b'{"prompt": "a"}', LIMITS).seed for _ in range(20)}
    assert len(seeds) > 1
    assert {parse(body(seed=seed), LIMITS).seed for seed in seeds} == seeds


@given(
    prompts=st.lists(st.text(min_size=1, max_size=50), min_size=1, max_size=16),
    new=st.integers(1, 512),
    temperature=st.just(0) | st.floats(0.05, 5) | st.integers(1, 5),
    top_k=st.integers(0, 1000),
    top_p=st.floats(0.01, 1),
    seed=st.integers(0, LARGEST_SEED),
)
@settings(max_examples=100, derandomize=True, database=None, deadline=None)
def test_parse_keeps_what_is_within_limits(
    prompts: list[str], new: int, temperature: float, top_k: int, top_p: float, seed: int
) -> None:
    sent = {
        "prompt": prompts,
        "max_new_tokens": new,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
    }
    for ascii_only in (True, False):
        made = parse(json.dumps(sent, ensure_ascii=ascii_only).encode(), LIMITS)
        assert made == ScoreRequest(tuple(prompts), new, temperature, top_k, top_p, seed)


@given(content=BAD_BODIES)
@settings(max_examples=500, derandomize=True, database=None, deadline=None)
def test_parse_refuses_what_is_no_request(content: bytes) -> None:
    error = refusal(content)
    assert error.status in (400, 413, 422)
    assert json.loads(json.dumps(error.body())) == {
        "error": {"code": error.code, "message": error.message}
    }


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"x" * (LIMITS.bytes + 1), 413, "65536 bytes"),
        (b'{"prompt": "a"', 400, "not JSON"),
        (b'{"prompt": "a", "seed": NaN}', 400, "NaN"),
        (b'{"prompt": "a", "prompt": "b"}', 400, "twice"),
        (b'["a"]', 400, "JSON object"),
        (body(promt="a"), 400, "'promt'"),
        (body(prompt=7), 400, "not a text"),
        (body(prompt=["a", True]), 400, "not a text"),
        (body(prompt="\ud800"), 400, "surrogate"),
        (body(prompt=""), 422, "empty"),
        (body(prompt=["a"] * 17), 422, "1 to 16"),
        (body(seed=True), 400, "whole number"),
        (body(max_new_tokens=3.0), 400, "whole number"),
        (body(max_new_tokens=513), 422, "1 to 512"),
        (body(temperature="1"), 400, "number"),
        (body(temperature=0.01), 422, "0, or 0.05 to 5.0"),
        (b'{"prompt": "a", "top_p": 1e999}', 422, "0.01 to 1.0"),
    ],
)
def test_parse_says_what_is_wrong(content: bytes, status: int, said: str) -> None:
    error = refusal(content)
    assert (error.status, said in error.message) == (status, True), error.message


def test_limits_are_read_from_the_environment() -> None:
    made = Limits.from_environment({"SCORE_SECONDS": "2.5", "SCORE_WAITING": "0", "OTHER": "x"})
    assert made == Limits(seconds=2.5, waiting=0)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "much", ""])
def test_limits_refuse_what_is_no_limit(value: str) -> None:
    with pytest.raises(ValueError, match=r"out of range|convert"):
        Limits.from_environment({"SCORE_SECONDS": value})


def test_validator_needs_no_torch() -> None:
    code = "import sys, score_request; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    from homer.local_server import SERVING

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=SERVING, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
