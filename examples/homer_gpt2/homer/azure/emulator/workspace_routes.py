"""What a workspace says of itself: its computes, the sizes of its region, its datastore."""

from __future__ import annotations

from typing import Any

from homer.azure.emulator.protocol import Answer, Refused, Request
from homer.azure.emulator.state import ACCOUNT, CONTAINER, PROVIDER, REGION, State

SIZES = {
    "Standard_DS3_v2": 0,
    "Standard_NC6": 1,
    "Standard_NC24ads_A100_v4": 1,
    "Standard_NC96ads_A100_v4": 4,
    "Standard_ND96asr_v4": 8,
}
"""Virtual machine sizes of the region, and their GPUs."""
COMPUTES = {
    "gpu8": ("AmlCompute", "Standard_ND96asr_v4", 4),
    "gpu4": ("AmlCompute", "Standard_NC96ads_A100_v4", 1),
    "gpu1": ("AmlCompute", "Standard_NC24ads_A100_v4", 2),
    "k80": ("AmlCompute", "Standard_NC6", 2),
    "cpu": ("AmlCompute", "Standard_DS3_v2", 2),
    "notebook": ("ComputeInstance", "Standard_NC24ads_A100_v4", 1),
    "kubernetes": ("Kubernetes", "", 1),
}
"""Computes of the workspace: type, size, and most nodes."""


def workspace(state: State) -> Answer:
    """The workspace itself."""
    path, name = state.workspace_id, state.workspace.workspace_name
    properties = {
        "friendlyName": name,
        "workspaceId": "11111111-1111-1111-1111-111111111111",
        "provisioningState": "Succeeded",
        "discoveryUrl": f"https://{REGION}.api.azureml.ms/discovery",
        "mlFlowTrackingUri": f"azureml://{REGION}.api.azureml.ms/mlflow/v1.0{path}",
        "storageAccount": f"{path}/storageAccounts/{ACCOUNT}",
        "keyVault": "vault",
        "applicationInsights": "insights",
    }
    identity = {"type": "SystemAssigned", "principalId": "principal", "tenantId": "tenant"}
    return Answer(
        200,
        {
            "id": path,
            "name": name,
            "type": f"{PROVIDER}/workspaces",
            "location": REGION,
            "tags": {},
            "kind": "Default",
            "identity": identity,
            "sku": {"name": "Basic", "tier": "Basic"},
            "properties": properties,
        },
    )


def _compute(state: State, name: str) -> dict[str, Any]:
    kind, size, nodes = COMPUTES[name]
    scale = {"minNodeCount": 0, "maxNodeCount": nodes, "nodeIdleTimeBeforeScaleDown": "PT2M"}
    detail: dict[str, Any] = {"vmSize": size, "vmPriority": "Dedicated", "scaleSettings": scale}
    if kind == "ComputeInstance":
        detail = {"vmSize": size, "state": "Running"}
    return {
        "id": f"{state.workspace_id}/computes/{name}",
        "name": name,
        "type": f"{PROVIDER}/workspaces/computes",
        "location": REGION,
        "properties": {
            "computeType": kind,
            "provisioningState": "Succeeded",
            "properties": detail,
        },
    }


def computes(state: State, rest: list[str]) -> Answer:
    """One compute, or all."""
    if not rest:
        return Answer(200, {"value": [_compute(state, name) for name in COMPUTES]})
    if rest[0] not in COMPUTES:
        name = state.workspace.workspace_name
        what = f"Compute with name {rest[0]} was not found in workspace {name}."
        raise Refused(404, "UserError", what)
    return Answer(200, _compute(state, rest[0]))


def sizes() -> Answer:
    """The sizes of the region."""
    return Answer(
        200,
        {
            "value": [
                {
                    "name": name,
                    "family": name,
                    "vCPUs": 4,
                    "gpus": gpus,
                    "osVhdSizeMB": 1000,
                    "maxResourceVolumeMB": 1000,
                    "memoryGB": 16.0,
                    "lowPriorityCapable": True,
                    "premiumIO": True,
                    "supportedComputeTypes": ["AmlCompute", "ComputeInstance"],
                }
                for name, gpus in SIZES.items()
            ]
        },
    )


def datastores(state: State, request: Request, rest: list[str]) -> Answer:
    """The default datastore, and the key to it."""
    if rest[-1:] and rest[-1].lower() == "listsecrets":
        return Answer(200, {"secretsType": "Sas", "sasToken": "sv=2022&sig=emulated"})
    name = rest[0] if rest else "workspaceblobstore"
    properties = {
        "datastoreType": "AzureBlob",
        "accountName": ACCOUNT,
        "containerName": CONTAINER,
        "endpoint": "core.windows.net",
        "protocol": "https",
        "isDefault": True,
        "serviceDataAccessAuthIdentity": "None",
        "credentials": {"credentialsType": "Sas"},
    }
    one = {
        "id": f"{state.workspace_id}/datastores/{name}",
        "name": name,
        "type": f"{PROVIDER}/workspaces/datastores",
        "properties": properties,
    }
    return Answer(200, one if rest else {"value": [one]})
