"""Managed online endpoints: kept as resources; their deployments are served here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from homer.azure.emulator.operations import Operations, Outcome
from homer.azure.emulator.protocol import Answer, Refused, Request
from homer.azure.emulator.serving import Server
from homer.azure.emulator.state import REGION, State

KEY = "emulated-primary-key"
_DEFAULTS = {"scaleSettings": {"scaleType": "Default"}, "endpointComputeType": "Managed"}
"""What the service answers for a deployment even where it was not sent; the SDK reads it."""


class Endpoints:
    """The workspace's online endpoints.

    Args:
        state: Holds them.
        operations: Making and deleting are long operations.
        settings: Environment variables of every server.
    """

    def __init__(self, state: State, operations: Operations, settings: dict[str, str]) -> None:
        self._state, self._operations, self._settings = state, operations, settings
        self._servers: dict[str, Server] = {}

    def answer(self, request: Request, rest: list[str]) -> Answer:
        """Answers for `{workspace}/onlineEndpoints/...`."""
        path, deployment = request.path, rest[1:2] == ["deployments"]
        if request.method == "POST":
            return self._ask(path, rest[-1].lower())
        if request.method == "PUT":
            return self._make_deployment(request) if deployment else self._make_endpoint(request)
        if request.method == "DELETE":
            return self._delete(request)
        if len(rest) in (0, 2):
            return Answer(200, {"value": self._state.below(path)})
        return Answer(200, self._state.get(path))

    def _ask(self, path: str, what: str) -> Answer:
        if what == "listkeys":
            self._state.get(path.rpartition("/")[0])
            return Answer(200, {"primaryKey": KEY, "secondaryKey": f"{KEY}-2"})
        if what == "getlogs":
            server = self._servers.get(path.rpartition("/")[0])
            text = server.log.read_text(errors="replace") if server else ""
            return Answer(200, {"content": text or "no log yet\n"})
        raise Refused(404, "NotFound", f"the emulator has no route for {what}")

    def _make_endpoint(self, request: Request) -> Answer:
        path, new = request.path, request.path not in self._state.resources
        base = f"https://{path.rsplit('/', 1)[1]}.{REGION}.inference.ml.azure.com"
        uris = {"scoringUri": f"{base}/score", "swaggerUri": f"{base}/swagger.json"}
        made = self._state.put(path, request.json, **uris)
        made["properties"].setdefault("traffic", {})
        return self._start(request, made, new)

    def _make_deployment(self, request: Request) -> Answer:
        path = request.path
        self._state.get(path.partition("/deployments/")[0])
        new = path not in self._state.resources
        made = self._state.put(path, request.json)
        for name, value in _DEFAULTS.items():
            made["properties"].setdefault(name, value)
        if request.fault and request.fault.operation:
            return self._start(request, made, new)
        self._stop(path)
        server = self._serve(path)
        return self._start(request, made, new, server)

    def _start(
        self, request: Request, made: dict[str, Any], new: bool, server: Server | None = None
    ) -> Answer:
        properties = made["properties"]
        properties["provisioningState"] = "Creating" if new else "Updating"

        def finished() -> bool:
            return server is None or server.healthy() or server.ended()

        def outcome() -> Outcome:
            wanted = request.fault.operation if request.fault else None
            if wanted:
                properties["provisioningState"] = "Failed"
                return wanted.get("code", "BadArgument"), wanted.get("message", "injected")
            if server is not None and server.ended():
                properties["provisioningState"] = "Failed"
                return "ResourceNotReady", "User container has crashed or terminated."
            properties["provisioningState"] = "Succeeded"
            return None

        return self._operations.start(201 if new else 200, made, finished, outcome)

    def _serve(self, path: str) -> Server:
        endpoint, _, name = path.rpartition("/onlineEndpoints/")[2].partition("/deployments/")
        folder: Path = self._state.folder / "deployments" / endpoint / name
        deployment = self._state.get(path)["properties"]
        server = Server(self._state, deployment, folder, self._settings)
        self._servers[path] = server
        return server

    def _stop(self, path: str) -> None:
        for key in [k for k in self._servers if k == path or k.startswith(f"{path}/")]:
            self._servers.pop(key).stop()

    def _delete(self, request: Request) -> Answer:
        path = request.path
        if path not in self._state.resources:
            return Answer(204)
        wanted = request.fault.operation if request.fault else None

        def outcome() -> Outcome:
            if wanted:
                return wanted.get("code", "InternalError"), wanted.get("message", "injected")
            self._stop(path)
            self._state.delete(path)
            return None

        return self._operations.start(202, None, outcome=outcome)

    def score(self, request: Request) -> Answer:
        """Answers for `NAME.REGION.inference.ml.azure.com`."""
        path = f"{self._state.workspace_id}/onlineEndpoints/{request.host.partition('.')[0]}"
        endpoint = self._state.get(path)
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            raise Refused(401, "Unauthorized", "the key is wrong")
        traffic = endpoint["properties"]["traffic"]
        name = request.headers.get("azureml-model-deployment") or next(
            (name for name, share in traffic.items() if share), None
        )
        deployment = f"{path}/deployments/{name}"
        if name is None or deployment not in self._state.resources:
            raise Refused(404, "NotFound", f"no deployment gets this request ({name})")
        # Servers end with the emulator that started them; the next one starts them when asked.
        server = self._servers.get(deployment) or self._serve(deployment)
        return server.score(request)

    def running(self) -> list[str]:
        """Names of the endpoints that are there."""
        root = f"{self._state.workspace_id}/onlineEndpoints"
        return [endpoint["name"] for endpoint in self._state.below(root)]

    def close(self) -> None:
        """Ends all servers."""
        for path in list(self._servers):
            self._stop(path)
