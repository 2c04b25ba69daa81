"""A request as the emulator sees it, and the answers it gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from homer.azure.emulator.faults import Fault


@dataclass(frozen=True)
class Request:
    """One HTTP request.

    Attributes:
        method: GET, PUT, ...
        host: Name of the host that the client believes to talk to.
        path: Unquoted path.
        query: The first value of each parameter.
        headers: As sent; look-ups ignore case.
        body: Raw.
        fault: What the route is to get wrong, for those faults that a route itself plays.
    """

    method: str
    host: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    fault: Fault | None = None

    @property
    def json(self) -> Any:
        """The body, or None where it is no JSON."""
        try:
            return json.loads(self.body) if self.body else None
        except ValueError:
            return None


@dataclass
class Answer:
    """One HTTP answer; a body that is not bytes is sent as JSON."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        """The body as it is sent."""
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


class Refused(Exception):
    """An error of the service, raised from inside a route."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.answer = Answer(status, error_body(code, message))


def error_body(code: str, message: str) -> dict[str, Any]:
    """An error in the shape that ARM gives it."""
    return {"error": {"code": code, "message": message}}
