"""The connection to a workspace. Here, and later than `--help`, is the Azure SDK loaded."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from homer.azure.failures import explained
from homer.azure.workspace import WorkspaceConfig

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

_LIBRARIES = ("azure", "msal", "msrest", "urllib3")
_SCOPE = "https://management.azure.com/.default"


def quieten() -> None:
    """Leaves our own words; the SDK logs each credential that it tried, and its experiments."""
    import azure.ai.ml  # noqa: F401  (its loggers set their own levels while it is imported)

    for name in (*_LIBRARIES, *logging.root.manager.loggerDict):
        if name.partition(".")[0] in _LIBRARIES:
            logging.getLogger(name).setLevel(logging.CRITICAL)


def connect(config: WorkspaceConfig, debug: bool = False) -> MLClient:
    """Logs in, looks the workspace up and returns its client.

    Args:
        config: The workspace.
        debug: Leave the SDK's own messages.

    Raises:
        AzureError: If the credentials fail, or the workspace is not there.
    """
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

    if not debug:
        quieten()
    with explained(config, "Cannot use the workspace"):
        credential = DefaultAzureCredential()
        # Asked for by itself, so that a login that has expired is not mistaken for a 401 later.
        credential.get_token(_SCOPE)
        client = MLClient(
            credential,
            config.subscription_id,
            config.resource_group,
            config.workspace_name,
            # Without progress a failed upload of a folder never ends (azure-ai-ml 1.35).
            show_progress=True,
        )
        client.workspaces.get(config.workspace_name)
    return client
