"""The workspace's online endpoints: listing, finding, waiting for, deleting."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acpt_trainer import Problem
from homer.azure import errors
from homer.azure.errors import AzureError
from homer.azure.failures import explained
from homer.azure.owner import is_own
from homer.azure.workspace import WorkspaceConfig

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

_CLEANING = 900.0
"""Seconds that a deletion may take."""
_PAUSE = 5.0
"""Seconds before it is tried again."""


def az_delete(config: WorkspaceConfig, name: str) -> str:
    """The `az` line that deletes an endpoint."""
    return f"az ml online-endpoint delete --name {shlex.quote(name)} --yes {config.arguments}"


def endpoints(client: MLClient, config: WorkspaceConfig, outputs: Path) -> dict[str, bool]:
    """The workspace's endpoints by name, and whether each was made from this folder.

    Args:
        client: The workspace.
        config: Names it, for messages.
        outputs: The folder that keeps the id of this one.
    """
    with explained(config, "Cannot list the endpoints"):
        return {e.name: is_own(e.tags, outputs) for e in client.online_endpoints.list()}


def spelled(name: str, names: Iterable[str]) -> str | None:
    """The name as the workspace spells it, or None; Azure does not tell A from a."""
    return next((known for known in names if known.casefold() == name.casefold()), None)


def delete(
    client: MLClient,
    config: WorkspaceConfig,
    name: str | None,
    outputs: Path,
    say: Callable[[str], None],
) -> None:
    """Deletes the endpoint that is named, or the only one that was made from this folder.

    Raises:
        AzureError: If it is not clear which is meant, or it cannot be deleted.
    """
    headline = "Cannot delete the endpoint"
    found = endpoints(client, config, outputs)
    listed = ", ".join(found) or "none"
    if name is None:
        name = _only_own(found)
    known = spelled(name, found) if name else None
    if known is None:
        which = f"no endpoint {name}" if name else "no endpoint"
        say(f"nothing to delete: there is {which}; the workspace has: {listed}")
        return
    line = az_delete(config, known)
    say(f"deleting the endpoint {known} ...")
    try:
        remove(client, config, known, say)
    except KeyboardInterrupt:
        say(f"interrupted: {known} may still be there and cost money; delete it:\n    {line}")
        raise
    except AzureError as error:
        what = f"{known} may still be there and cost money"
        left = Problem(what, f"workspace {config.workspace_name}", f"run: {line}")
        raise AzureError([*error.problems, left], headline, error.status) from error.__cause__
    say(f"deleted: {known}")


def _only_own(found: dict[str, bool]) -> str | None:
    own = [name for name, is_ours in found.items() if is_ours]
    if len(own) == 1 or not found:
        return own[0] if own else None
    what = f"several endpoints were made from this folder: {', '.join(own)}"
    if not own:
        what = f"none of the endpoints was made from this folder: {', '.join(found)}"
    problem = Problem(what, "--delete", "say which, with --endpoint_name")
    raise AzureError([problem], "Cannot choose what to delete")


def wait_for(
    poller: Any, what: str, deadline: float, say: Callable[[str], None], late: Problem
) -> None:
    """Waits for a long operation, and says every half minute that it still does.

    `poller.result(timeout)` of azure-ai-ml 1.35 raises an `AttributeError` when time is up.

    Args:
        poller: The operation.
        what: Its name.
        deadline: When to give up, on the monotonic clock.
        say: Prints.
        late: The problem when time is up.

    Raises:
        AzureError: If it takes too long.
    """
    started = said = time.monotonic()
    while not poller.done():
        poller.wait(1.0)
        now = time.monotonic()
        if now > deadline and not poller.done():
            raise AzureError([late], "Gave up", errors.SERVICE)
        if now - said >= 30:
            said = now
            say(f"\nstill waiting for {what}: {now - started:.0f} s")
    # The SDK prints dots without an end of line.
    say(f"\n{what}: {poller.status()} after {time.monotonic() - started:.0f} s")
    poller.result()


def remove(
    client: MLClient, config: WorkspaceConfig, name: str, say: Callable[[str], None]
) -> None:
    """Deletes an endpoint and its deployments; one that is not there is no error.

    Raises:
        AzureError: If it cannot be deleted.
    """
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    deadline = time.monotonic() + _CLEANING
    late = Problem(
        f"the deletion is not done in {_CLEANING:.0f} s",
        f"endpoint {name}",
        "look in the Studio whether it is gone, and delete it again",
    )
    online = client.online_endpoints
    with explained(config, "Cannot delete the endpoint"):
        while True:
            try:
                wait_for(online.begin_delete(name), "the deletion", deadline, say, late)
                return
            except ResourceNotFoundError:
                return
            except HttpResponseError as error:
                # What is still being made cannot be deleted yet.
                if error.status_code != 409 or time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE)
