"""Long-running operations: started by one request, polled by others until they end."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from homer.azure.emulator.protocol import Answer, Refused, Request, error_body
from homer.azure.emulator.state import PROVIDER, REGION, State

_SOON = {"retry-after-ms": "20"}
"""Between polls: `Retry-After: 0` would be read as "not said", which is 30 seconds."""
Outcome = tuple[str, str] | None
"""How an operation ended: None for well, or an error's code and message."""


@dataclass
class _Operation:
    finished: Callable[[], bool]
    outcome: Callable[[], Outcome]


class Operations:
    """The operations of the workspace's region.

    Args:
        state: Names the subscription.
    """

    def __init__(self, state: State) -> None:
        subscription = f"/subscriptions/{state.workspace.subscription_id}"
        self._base = f"{subscription}/providers/{PROVIDER}/locations/{REGION}/operations/"
        self._running: dict[str, _Operation] = {}

    def start(
        self,
        status: int,
        resource: Any,
        finished: Callable[[], bool] = lambda: True,
        outcome: Callable[[], Outcome] = lambda: None,
    ) -> Answer:
        """Starts one.

        Args:
            status: Of the answer to the request that starts it.
            resource: Its body.
            finished: Asked at each poll.
            outcome: Called once it is finished; what the operation does is done here.

        Returns:
            The answer to the request that starts it.
        """
        name = str(uuid.uuid4())
        self._running[name] = _Operation(finished, outcome)
        url = f"https://management.azure.com{self._base}{name}?api-version=emulated"
        return Answer(status, resource, {"Azure-AsyncOperation": url, "Location": url, **_SOON})

    def answer(self, request: Request) -> Answer:
        """Answers a poll."""
        name = request.path.removeprefix(self._base)
        if name not in self._running:
            raise Refused(404, "NotFound", f"there is no operation {name}")
        operation = self._running[name]
        if not operation.finished():
            return Answer(200, {"status": "InProgress"}, dict(_SOON))
        failed = operation.outcome()
        if failed is None:
            return Answer(200, {"status": "Succeeded"})
        return Answer(200, {"status": "Failed", **error_body(*failed)})

    def owns(self, path: str) -> bool:
        """Whether a path is that of an operation."""
        return path.startswith(self._base)
