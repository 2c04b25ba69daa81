"""The connection to a workspace. Here, and later than `--help`, is the Azure SDK loaded."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from homer.azure.failures import explained
from homer.azure.workspace import WorkspaceConfig

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

_SCOPE = "https://management.azure.com/.default"


def quieten() -> None:
    """Leaves our own words; the SDK logs each credential that it tried, and its experiments."""
    for name in ("azure", "msal", "msrest", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def connect(config: WorkspaceConfig) -> MLClient:
    """Logs in, looks the workspace up and returns its client.

    Raises:
        AzureError: If the credentials fail, or the workspace is not there.
    """
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

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
