"""Code, environments and models: numbered versions of what was uploaded or made by a job."""

from __future__ import annotations

import re
import uuid
from typing import Any

from homer.azure.emulator.protocol import Answer, Refused, Request
from homer.azure.emulator.state import ACCOUNT, State

KINDS = ("codes", "environments", "models", "data")
_JOB_OUTPUT = re.compile(r"azureml://jobs/([^/]+)/outputs/([^/]+)(?:/paths/(.*))?$")


class Assets:
    """The workspace's assets.

    Args:
        state: Holds them.
    """

    def __init__(self, state: State) -> None:
        self._state = state

    def answer(self, request: Request, rest: list[str]) -> Answer:
        """Answers for `{workspace}/{codes,environments,models,data}/...`."""
        if rest[-1] == "startPendingUpload":
            return _upload(rest[0])
        if request.method == "PUT":
            return Answer(201, self.put(request.path, request.json))
        if rest[-1] == "versions":
            return Answer(200, {"value": self._versions(request)})
        if request.method == "GET":
            return Answer(200, self._state.get(request.path))
        raise Refused(404, "NotFound", f"the emulator has no route for {request.method} {rest}")

    def _versions(self, request: Request) -> list[dict[str, Any]]:
        wanted = request.query.get("hash")
        if wanted:
            # Asked under a name that the SDK has just made up: the service looks at all names.
            found = [v for v in self._all_versions() if _hash(v) == wanted]
        else:
            found = self._state.below(request.path)
        if "desc" in request.query.get("$orderBy", ""):
            found.reverse()
        return found[: int(request.query.get("$top", 100))]

    def _all_versions(self) -> list[dict[str, Any]]:
        containers = self._state.below(f"{self._state.workspace_id}/codes")
        return [v for c in containers for v in self._state.below(f"{c['id']}/versions")]

    def put(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Keeps a version, and what the container knows of its versions."""
        kind = path.removeprefix(self._state.workspace_id).split("/")[1]
        made = self._state.put(path, body)
        properties = made["properties"]
        properties.setdefault("provisioningState", "Succeeded")
        if kind == "models":
            # The service answers these even where they were not sent; the SDK reads them.
            for name, default in (("flavors", {}), ("properties", {}), ("tags", {}), ("stage", "")):
                properties.setdefault(name, default)
            self._resolve(properties)
        if "/versions/" in path:
            container = path.partition("/versions/")[0]
            held = self._state.put(container, {"properties": {"isArchived": False}})["properties"]
            held["latestVersion"] = made["name"]
            held["nextVersion"] = str(self._next(container))
        return made

    def _next(self, container: str) -> int:
        names = [version["name"] for version in self._state.below(f"{container}/versions")]
        return max((int(name) for name in names if name.isdigit()), default=0) + 1

    def _resolve(self, model: dict[str, Any]) -> None:
        """A job's output becomes a path in the datastore, as the service makes it."""
        found = _JOB_OUTPUT.match(model.get("modelUri") or "")
        if found:
            job, output, rest = found[1], found[2], found[3] or ""
            model["modelUri"] = datastore_uri(self._state, f"azureml/{job}/{output}/{rest}")
            model["jobName"] = job

    def register(self, name: str, kind: str, job: str, output: str) -> str:
        """Registers a job's output as the next version of a model; returns the version."""
        container = f"{self._state.workspace_id}/models/{name}"
        version = str(self._next(container))
        uri = f"azureml://jobs/{job}/outputs/{output}/paths/"
        body = {"properties": {"modelType": kind, "modelUri": uri, "isArchived": False}}
        self.put(f"{container}/versions/{version}", body)
        return version


def datastore_uri(state: State, path: str) -> str:
    """The long URI of a path in the default datastore."""
    names = state.workspace
    return (
        f"azureml://subscriptions/{names.subscription_id}/resourceGroups/{names.resource_group}"
        f"/workspaces/{names.workspace_name}/datastores/workspaceblobstore/paths/{path}"
    )


def _hash(version: dict[str, Any]) -> str | None:
    return (version["properties"].get("properties") or {}).get("hash_sha256")


def _upload(kind: str) -> Answer:
    blob = f"https://{ACCOUNT}.blob.core.windows.net/{kind}-{uuid.uuid4().hex[:8]}"
    credential = {"credentialType": "SAS", "sasUri": f"{blob}?sv=2022&sr=c&sig=emulated"}
    return Answer(
        200,
        {
            "pendingUploadId": str(uuid.uuid4()),
            "pendingUploadType": "TemporaryBlobReference",
            "blobReferenceForConsumption": {
                "blobUri": blob,
                "storageAccountArmId": "account",
                "credential": credential,
            },
        },
    )
