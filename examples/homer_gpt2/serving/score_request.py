"""What a scoring request may hold; checked without torch, so that a bad one costs little."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NoReturn

LARGEST_SEED = 2**32 - 1


class RequestError(Exception):
    """A request that is not answered.

    Args:
        status: The HTTP status.
        code: A word for programs.
        message: What is wrong, for people. It never holds the prompt.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message

    def body(self) -> dict[str, dict[str, str]]:
        """The answer, in the shape that the Azure ML client reads a message from."""
        return {"error": {"code": self.code, "message": self.message}}


@dataclass(frozen=True)
class Limits:
    """What one request may cost. `SCORE_` and the name in capitals sets one, such as SCORE_SECONDS.

    Attributes:
        bytes: Of the body.
        prompts: In one request.
        new_tokens: For each prompt.
        seconds: For the whole request, with the wait for its turn. A managed endpoint gives up
            after 180 at most.
        waiting: Requests that wait while one is answered; more are refused.
    """

    bytes: int = 65_536
    prompts: int = 16
    new_tokens: int = 512
    seconds: float = 60.0
    waiting: int = 4

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Limits:
        """Reads the limits.

        Raises:
            ValueError: If one is not a number above zero (`waiting` may be zero).
        """
        found: dict[str, Any] = {}
        for field in fields(cls):
            name = f"SCORE_{field.name.upper()}"
            if name not in environment:
                continue
            number = type(field.default)(environment[name])
            lowest = 0 if field.name == "waiting" else 1e-9
            if not lowest <= number < math.inf:
                raise ValueError(f"{name}={environment[name]} is out of range")
            found[field.name] = number
        return cls(**found)


@dataclass(frozen=True)
class ScoreRequest:
    """A request that holds what it may.

    Attributes:
        prompts: Texts to continue.
        max_new_tokens: Tokens to add to each.
        temperature: Of the sampling; 0 takes the likeliest token each time.
        top_k: Sample from this many likeliest tokens; 0 from all.
        top_p: Sample from the likeliest tokens that have this probability together.
        seed: The same seed gives the same answer.
    """

    prompts: tuple[str, ...]
    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    seed: int


def parse(body: bytes, limits: Limits) -> ScoreRequest:
    """Reads and checks the body of a request.

    Args:
        body: As it was sent.
        limits: What it may cost.

    Returns:
        The request, with defaults filled in; without a seed it gets one, which is sent back.

    Raises:
        RequestError: 413 for too many bytes, 400 for what is no request, 422 for a value out of
            range.
    """
    if len(body) > limits.bytes:
        raise too_large(limits)
    found = _decoded(body)
    if not isinstance(found, dict):
        _refuse('the body is not a JSON object such as {"prompt": "Sing, O goddess"}')
    unknown = sorted(set(found) - {"prompt", *_NUMBERS})
    if unknown:
        known = ", ".join(("prompt", *_NUMBERS))
        _refuse(f"unknown key {unknown[0][:40]!r}; known are {known}")
    numbers = {name: check(found, limits) for name, check in _NUMBERS.items()}
    return ScoreRequest(prompts=_prompts(found, limits), **numbers)


def too_large(limits: Limits) -> RequestError:
    """The refusal of a body that is over the limit."""
    return RequestError(413, "too_large", f"the body has more than {limits.bytes} bytes")


def _refuse(message: str) -> NoReturn:
    raise RequestError(400, "invalid_request", message)


def _out_of_range(message: str) -> NoReturn:
    raise RequestError(422, "out_of_range", message)


def _decoded(body: bytes) -> Any:
    """JSON in the strict sense: Python's reader takes NaN, and the last of two equal keys."""

    def constant(name: str) -> NoReturn:
        _refuse(f"{name} is not JSON")

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in items}) != len(items):
            _refuse("a key is given twice")
        return dict(items)

    try:
        text = body.decode("utf-8")
        return json.loads(text, parse_constant=constant, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        # The reader's message is left out: it may show what was sent.
        raise RequestError(400, "invalid_json", "the body is not JSON in UTF-8") from error


def _prompts(found: dict[str, Any], limits: Limits) -> tuple[str, ...]:
    given = found.get("prompt")
    prompts = given if isinstance(given, list) else [given]
    if not all(isinstance(prompt, str) for prompt in prompts):
        _refuse('"prompt" is not a text or a list of texts')
    if not 1 <= len(prompts) <= limits.prompts:
        _out_of_range(f'"prompt" holds {len(prompts)} texts; give 1 to {limits.prompts}')
    for prompt in prompts:
        if not prompt:
            _out_of_range('"prompt" holds an empty text')
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError:
            _refuse('"prompt" holds half of a surrogate pair, which is no text')
    return tuple(prompts)


@dataclass(frozen=True)
class _Number:
    """Checks one number of a request."""

    name: str
    whole: bool
    low: float
    high: float | None = None
    default: float | None = None
    also: float | None = None

    def __call__(self, found: dict[str, Any], limits: Limits) -> Any:
        if self.name not in found:
            return secrets.randbelow(LARGEST_SEED + 1) if self.default is None else self.default
        value = found[self.name]
        allowed = int if self.whole else (int, float)
        # True and False are whole numbers to Python.
        if isinstance(value, bool) or not isinstance(value, allowed):
            _refuse(f'"{self.name}" is not a {"whole " if self.whole else ""}number')
        high = limits.new_tokens if self.high is None else self.high
        if not (self.low <= value <= high or value == self.also):
            other = "" if self.also is None else f"{self.also}, or "
            _out_of_range(f'"{self.name}" is out of range; give {other}{self.low} to {high}')
        return value if self.whole else float(value)


_NUMBERS = {
    check.name: check
    for check in (
        _Number("max_new_tokens", whole=True, low=1, default=60),
        _Number("temperature", whole=False, low=0.05, high=5.0, default=0.9, also=0),
        _Number("top_k", whole=True, low=0, high=1000, default=50),
        _Number("top_p", whole=False, low=0.01, high=1.0, default=1.0),
        _Number("seed", whole=True, low=0, high=LARGEST_SEED),
    )
}
