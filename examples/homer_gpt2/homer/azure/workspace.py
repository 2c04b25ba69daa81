"""The file that names the workspace (`--ws_config`), checked without loading the Azure SDK."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from acpt_trainer import Problem, raise_if_any

KEYS = ("subscription_id", "resource_group", "workspace_name")
_GUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


@dataclass(frozen=True)
class WorkspaceConfig:
    """Which workspace is meant.

    Attributes:
        subscription_id: The subscription's GUID.
        resource_group: Name of the resource group.
        workspace_name: Name of the workspace.
        path: The file that said so, for messages.
    """

    subscription_id: str
    resource_group: str
    workspace_name: str
    path: Path

    @property
    def arguments(self) -> str:
        """The options by which `az ml` finds the same workspace."""
        group, workspace = shlex.quote(self.resource_group), shlex.quote(self.workspace_name)
        return (
            f"--subscription {shlex.quote(self.subscription_id)} --resource-group {group} "
            f"--workspace-name {workspace}"
        )


def load_workspace(path: Path) -> WorkspaceConfig:
    """Reads and checks the workspace's config.json.

    Only this file: the SDK's own reader also searches the parent folders, and may then take
    another workspace than the one that was named.

    Args:
        path: A JSON file with the three keys, as the Azure portal offers it for download.

    Raises:
        ConfigurationError: With all problems of the file.
    """
    where = f"--ws_config {path}"
    headline = "Cannot use the workspace config"
    fix = "download config.json from the workspace's page in the Azure portal, and name it here"
    if not path.is_file():
        what = "this is a folder" if path.is_dir() else "there is no such file"
        raise_if_any([Problem(what, where, fix)], headline)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise_if_any([Problem(f"cannot be read: {error.strerror}", where, fix)], headline)
    except ValueError as error:
        raise_if_any([Problem(f"not a JSON file: {error}", where, fix)], headline)
    raise_if_any(_content_problems(content, where, fix), headline)
    return WorkspaceConfig(*(content[key] for key in KEYS), path)


def _content_problems(content: object, where: str, fix: str) -> list[Problem]:
    if not isinstance(content, dict):
        return [Problem(f"not a JSON object with {', '.join(KEYS)}", where, fix)]
    found = []
    for key in KEYS:
        value = content.get(key)
        if key not in content:
            found.append(Problem(f"the key `{key}` is missing", where, fix))
        elif not isinstance(value, str) or not value.strip():
            found.append(Problem(f"`{key}` must be a string that is not empty", where, fix))
        elif key == "subscription_id" and not _GUID.fullmatch(value):
            what = f"`{key}` is not an id such as 12345678-1234-1234-1234-123456789abc: {value!r}"
            found.append(Problem(what, where, f"{fix}; `az account list` shows the ids"))
    return found
