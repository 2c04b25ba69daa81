"""What the emulator remembers between commands: ARM resources in a JSON file, blobs in folders."""

from __future__ import annotations

import json
import re
import shutil
import threading
from pathlib import Path
from typing import Any

from homer.azure.emulator.protocol import Refused
from homer.azure.workspace import WorkspaceConfig
from homer.files import write_atomically

REGION = "eastus"
PROVIDER = "Microsoft.MachineLearningServices"
ACCOUNT = "emulatedstore"
CONTAINER = "azureml-blobstore-1"
"""Container of the workspace's default datastore."""
_SYSTEM = {
    f"{what}{field}": value
    for what in ("created", "lastModified")
    for field, value in (("At", "2026-01-01T00:00:00Z"), ("By", "emulator"), ("ByType", "User"))
}


class State:
    """The resources and blobs of one workspace.

    Args:
        folder: Where they are kept; made if it is not there.
        workspace: The workspace that is played.
    """

    def __init__(self, folder: Path, workspace: WorkspaceConfig) -> None:
        self.folder, self.workspace = folder.resolve(), workspace
        self.lock = threading.RLock()
        self.blobs = self.folder / "blobs"
        self.blobs.mkdir(parents=True, exist_ok=True)
        self._file = self.folder / "resources.json"
        found = json.loads(self._file.read_text()) if self._file.is_file() else {}
        self.resources: dict[str, dict[str, Any]] = found

    @property
    def workspace_id(self) -> str:
        """The ARM path of the workspace."""
        names = self.workspace
        return (
            f"/subscriptions/{names.subscription_id}/resourceGroups/{names.resource_group}"
            f"/providers/{PROVIDER}/workspaces/{names.workspace_name}"
        )

    def save(self) -> None:
        """Writes the resources."""
        with self.lock:
            content = json.dumps(self.resources, indent=1).encode()
        write_atomically({self._file: content})

    def put(self, path: str, body: dict[str, Any], **properties: Any) -> dict[str, Any]:
        """Keeps a resource as sent, with what the service adds.

        Args:
            path: Its ARM path.
            body: As sent.
            **properties: What to add to its properties.
        """
        kinds = path.removeprefix(self.workspace_id).split("/")[1::2]
        made = {
            **{k: body[k] for k in ("location", "tags", "identity", "kind", "sku") if k in body},
            "id": path,
            "name": path.rsplit("/", 1)[1],
            "type": "/".join((PROVIDER, "workspaces", *kinds)),
            "properties": {**body.get("properties", {}), **properties},
            "systemData": _SYSTEM,
        }
        with self.lock:
            self.resources[path] = made
        return made

    def get(self, path: str) -> dict[str, Any]:
        """A resource.

        Raises:
            Refused: If it is not there.
        """
        with self.lock:
            if path not in self.resources:
                what = path.removeprefix(self.workspace_id).strip("/")
                raise Refused(404, "UserError", f"{what} was not found.")
            return self.resources[path]

    def below(self, path: str) -> list[dict[str, Any]]:
        """The resources right below a path, in the order in which they were made."""
        direct = re.compile(re.escape(path) + "/[^/]+")
        with self.lock:
            return [r for key, r in self.resources.items() if direct.fullmatch(key)]

    def delete(self, path: str) -> None:
        """Forgets a resource and those below it."""
        with self.lock:
            for key in list(self.resources):
                if key == path or key.startswith(f"{path}/"):
                    del self.resources[key]

    def folder_of(self, uri: str) -> Path:
        """The folder behind a blob's URL or a datastore's URI.

        Raises:
            Refused: If the URI is of neither kind, or leads out of the blobs.
        """
        blob = re.match(rf"https://{ACCOUNT}\.blob\.core\.windows\.net/([^?]+)", uri)
        store = re.match(r"azureml://.*/datastores/[^/]+/paths/(.*)", uri)
        if not blob and not store:
            raise Refused(400, "UserError", f"The emulator cannot read {uri}")
        found = self.blobs / (blob[1] if blob else f"{CONTAINER}/{store[1] if store else ''}")
        if not found.resolve().is_relative_to(self.blobs):
            raise Refused(400, "UserError", f"{uri} leads out of the storage account")
        return found

    def copy(self, uri: str, target: Path) -> Path:
        """Copies what a URI names, as the service does before it runs code."""
        shutil.copytree(self.folder_of(uri), target, dirs_exist_ok=True)
        return target
