"""The emulator as a whole: which path is whose, faults, the log, the environment."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from homer.azure.emulator import identity, workspace_routes
from homer.azure.emulator.assets import KINDS, Assets
from homer.azure.emulator.certificates import make_certificates
from homer.azure.emulator.endpoints import Endpoints
from homer.azure.emulator.faults import Fault
from homer.azure.emulator.jobs import Jobs
from homer.azure.emulator.operations import Operations
from homer.azure.emulator.protocol import Answer, Refused, Request
from homer.azure.emulator.proxy import HOSTS, Dropped, Proxy
from homer.azure.emulator.state import State
from homer.azure.emulator.storage import Storage
from homer.azure.workspace import KEYS, WorkspaceConfig

REQUESTS = "requests.jsonl"
"""Log in the state's folder: a line for each request, and for each host that was refused."""
_NAMES = ("00000000-0000-0000-0000-000000000001", "emulated-group", "emulated-workspace")


def own_workspace(folder: Path) -> WorkspaceConfig:
    """The workspace that is played where none is named; writes its config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder.resolve() / "config.json"
    path.write_text(json.dumps(dict(zip(KEYS, _NAMES, strict=True)), indent=1) + "\n")
    return WorkspaceConfig(*_NAMES, path=path)


class Emulator:
    """Plays one workspace until it is closed; a context manager.

    Args:
        folder: Where resources, blobs, jobs and the log of requests are kept, also between runs.
        workspace: The workspace that is played; its own by default.
        faults: What is to go wrong. The list may be changed at any time.
        hub: A Hugging Face home (`HF_HOME`) for jobs, which never reach the hub itself.
        interrupt: Called where a fault asks for Ctrl-C.

    Example:
        >>> with Emulator(Path("outputs/emulator")) as emulator:
        ...     subprocess.run([...], env=os.environ | emulator.environment())
    """

    def __init__(
        self,
        folder: Path,
        workspace: WorkspaceConfig | None = None,
        faults: Iterable[Fault] = (),
        hub: Path | None = None,
        interrupt: Callable[[], None] = lambda: None,
    ) -> None:
        self.workspace = workspace or own_workspace(folder)
        self.state = State(folder, self.workspace)
        self.faults = list(faults)
        self.interrupt = interrupt
        self.requests: list[dict[str, Any]] = []
        self.refused: list[str] = []
        self._lock = threading.Lock()
        self._bundle, tls = make_certificates(self.state.folder, HOSTS)
        self._proxy = Proxy(tls, self._answer, self._refuse)
        inside = {**self._network(), "HF_HUB_OFFLINE": "1"}
        if hub is not None:
            inside["HF_HOME"] = str(hub.resolve())
        operations = Operations(self.state)
        assets = Assets(self.state)
        self.jobs = Jobs(self.state, assets, operations, inside)
        self.endpoints = Endpoints(self.state, operations, inside)
        self._operations, self._assets = operations, assets
        self._storage = Storage(self.state)

    def __enter__(self) -> Emulator:
        self._proxy.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.jobs.close()
        self.endpoints.close()
        self._proxy.stop()
        self.state.save()

    def _network(self) -> dict[str, str]:
        proxy = dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY"), self._proxy.url)
        lower = {name.lower(): url for name, url in proxy.items()}
        bundle = {name: str(self._bundle) for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")}
        return {**proxy, **lower, "NO_PROXY": "", "no_proxy": "", **bundle}

    def environment(self) -> dict[str, str]:
        """Environment variables under which a command talks to the emulator."""
        return {
            **self._network(),
            "AZURE_TENANT_ID": "22222222-2222-2222-2222-222222222222",
            "AZURE_CLIENT_ID": "33333333-3333-3333-3333-333333333333",
            "AZURE_CLIENT_SECRET": "emulated-secret",
            # The SDK waits for seconds between two looks at a job; here it need not.
            "AZUREML_RUN_POLLING_INTERVAL_MIN": "0",
        }

    def _refuse(self, address: str) -> None:
        self.refused.append(address)
        self._log({"refused": address})

    def _log(self, record: dict[str, Any]) -> None:
        with self._lock:
            self.requests.append(record)
            with (self.state.folder / REQUESTS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")

    def _answer(self, request: Request) -> Answer:
        line = f"{request.method} https://{request.host}{request.path}"
        fault = next((fault for fault in list(self.faults) if fault.strikes(line)), None)
        try:
            answer = self._played(request, fault)
        except Refused as refused:
            answer = refused.answer
        except Dropped:
            self._log(_record(request, None))
            raise
        except Exception:
            answer = Answer(500, {"error": {"code": "Emulator", "message": traceback.format_exc()}})
        self._log(_record(request, answer.status))
        return answer

    def _played(self, request: Request, fault: Fault | None) -> Answer:
        if fault is not None:
            if fault.interrupt:
                self.interrupt()
            if fault.drop:
                raise Dropped
            if fault.status is not None:
                error = {"error": {"code": fault.code, "message": fault.message}}
                body = error if fault.body is None else fault.body
                return Answer(fault.status, body, dict(fault.headers))
            request = dataclasses.replace(request, fault=fault)
        answer = self._route(request)
        if fault is not None and fault.drop_after:
            raise Dropped
        return answer

    def _route(self, request: Request) -> Answer:
        if request.host == "login.microsoftonline.com":
            return identity.answer(request)
        if request.host.endswith(".inference.ml.azure.com"):
            return self.endpoints.score(request)
        if request.host.endswith(".blob.core.windows.net"):
            return self._storage.answer(request)
        if request.host.endswith(".api.azureml.ms"):
            return self.jobs.history(request)
        identity.check(request)
        if self._operations.owns(request.path):
            return self._operations.answer(request)
        return self._resource(request)

    def _resource(self, request: Request) -> Answer:
        path, root = request.path, self.state.workspace_id
        if path != root and not path.startswith(f"{root}/"):
            if path.endswith("/vmSizes"):
                return workspace_routes.sizes()
            raise _elsewhere(path, self.workspace)
        rest = path.removeprefix(root).strip("/").split("/") if path != root else []
        if not rest:
            return workspace_routes.workspace(self.state)
        kind, below = rest[0], rest[1:]
        if kind == "computes":
            return workspace_routes.computes(self.state, below)
        if kind == "datastores":
            return workspace_routes.datastores(self.state, request, below)
        if kind in KINDS:
            return self._assets.answer(request, rest)
        if kind == "jobs":
            return self.jobs.answer(request, below)
        if kind == "onlineEndpoints":
            return self.endpoints.answer(request, below)
        raise Refused(404, "NotFound", f"the emulator has no route for {request.method} {path}")


def _elsewhere(path: str, workspace: WorkspaceConfig) -> Refused:
    """What ARM says of a path outside the workspace: which part of it is not there."""
    parts = dict(
        zip(path.strip("/").split("/")[::2], path.strip("/").split("/")[1::2], strict=False)
    )
    subscription, group = parts.get("subscriptions"), parts.get("resourceGroups")
    if subscription != workspace.subscription_id:
        what = f"The subscription '{subscription}' could not be found."
        return Refused(404, "SubscriptionNotFound", what)
    if group != workspace.resource_group:
        what = f"Resource group '{group}' could not be found."
        return Refused(404, "ResourceGroupNotFound", what)
    resource = path.partition("/providers/")[2]
    what = f"The Resource '{resource}' under resource group '{group}' was not found."
    return Refused(404, "ResourceNotFound", what)


def _record(request: Request, status: int | None) -> dict[str, Any]:
    record: dict[str, Any] = {
        "method": request.method,
        "host": request.host,
        "path": request.path,
        "query": dict(request.query),
        "status": status,
    }
    kind = request.headers.get("Content-Type", "")
    with contextlib.suppress(UnicodeDecodeError):
        # Scoring bodies hold prompts, token requests hold secrets, and blobs are large.
        if request.host == "management.azure.com" and "json" in kind:
            record["json"] = request.json
    return record
