"""Jobs: kept as resources, run as processes, watched through the run history."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

from homer.azure.emulator import processes
from homer.azure.emulator.assets import Assets
from homer.azure.emulator.operations import Operations
from homer.azure.emulator.protocol import Answer, Refused, Request, error_body
from homer.azure.emulator.state import ACCOUNT, CONTAINER, REGION, State
from homer.azure.emulator.workspace_routes import COMPUTES

_LOG = "user_logs/std_log_process_0.txt"
_ENDED = ("Completed", "Failed", "Canceled")


class Jobs:
    """The workspace's jobs.

    Args:
        state: Holds them.
        assets: Where named outputs are registered.
        operations: For cancelling.
        settings: Environment variables of every job, asked for when one starts.
    """

    def __init__(
        self, state: State, assets: Assets, operations: Operations, settings: dict[str, str]
    ) -> None:
        self._state, self._assets, self._operations = state, assets, operations
        self._settings = settings
        self._errors: dict[str, tuple[str, str]] = {}
        self._threads: dict[str, threading.Thread] = {}
        self._closing = threading.Event()

    def answer(self, request: Request, rest: list[str]) -> Answer:
        """Answers for `{workspace}/jobs/...`."""
        if request.method == "PUT":
            return self._submit(request)
        path = f"{self._state.workspace_id}/jobs/{rest[0]}"
        job = self._state.get(path)
        if rest[1:] == ["cancel"]:
            if job["properties"]["status"] not in _ENDED:
                job["properties"]["status"] = "Canceled"
            return self._operations.start(202, None)
        return Answer(200, job)

    def history(self, request: Request) -> Answer:
        """Answers for the region's run history, which `jobs.stream` reads."""
        if request.path == "/discovery":
            services = ("api", "history", "experimentation", "catalog", "mlflow", "studio")
            names = dict.fromkeys((*services, "modelmanagement"), f"https://{request.host}")
            return Answer(200, names)
        found = re.search(r"/runs/([^/]+)/details$", request.path)
        if not found:
            raise Refused(404, "NotFound", f"the emulator has no route for {request.path}")
        name = found[1]
        status = self._state.get(f"{self._state.workspace_id}/jobs/{name}")["properties"]["status"]
        log = f"https://{ACCOUNT}.blob.core.windows.net/{CONTAINER}/logs/{name}/{_LOG}"
        details: dict[str, Any] = {"runId": name, "status": status, "logFiles": {}}
        if status != "Queued":
            details["logFiles"] = {_LOG: f"{log}?sig=emulated"}
        if status == "Failed":
            details["error"] = error_body(*self._errors.get(name, ("UserError", "It failed.")))
        return Answer(200, details)

    def _submit(self, request: Request) -> Answer:
        body, name = request.json, request.path.rsplit("/", 1)[1]
        compute = (body["properties"].get("computeId") or "").rsplit("/", 1)[-1]
        if compute not in COMPUTES:
            raise Refused(400, "UserError", f"Compute '{compute}' was not found in the workspace.")
        studio = f"https://ml.azure.com/runs/{name}?wsid={self._state.workspace_id}"
        tracking = f"azureml://{REGION}.api.azureml.ms/mlflow/v1.0{self._state.workspace_id}?"
        services = {
            "Studio": {"jobServiceType": "Studio", "endpoint": studio},
            "Tracking": {"jobServiceType": "Tracking", "endpoint": tracking},
        }
        job = self._state.put(request.path, body, status="Queued", services=services)
        job["properties"].setdefault("outputs", {})
        wanted = (request.fault.job if request.fault else None) or {}
        thread = threading.Thread(target=self._run, args=(name, job["properties"], wanted))
        self._threads[name] = thread
        thread.start()
        return Answer(201, job)

    def _run(self, name: str, job: dict[str, Any], wanted: dict[str, str]) -> None:
        log = self._state.blobs / CONTAINER / "logs" / name / _LOG
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
        if "status" in wanted:
            error = (wanted.get("code", "UserError"), wanted.get("message", "injected"))
            self._errors[name] = error
            job["status"] = wanted["status"]
            return
        job["status"] = "Running"
        try:
            status = self._processes(name, job, wanted.get("preempt"), log)
        except Exception as error:
            log.write_text(f"the emulator could not run the job: {error!r}\n")
            status = 1
        if job["status"] == "Canceled":
            return
        if status:
            what = f"Execution failed. User process exited with status code {status}."
            hint = f"Please check log file '{_LOG}' for error details."
            self._errors[name] = ("UserError", f"{what} {hint}")
            job["status"] = "Failed"
            return
        for output, spec in job["outputs"].items():
            if spec.get("assetName"):
                kind = spec["jobOutputType"]
                self._assets.register(spec["assetName"], kind, name, output)
        job["status"] = "Completed"

    def _processes(self, name: str, job: dict[str, Any], preempt: str | None, log: Path) -> int:
        code = self._state.get(job["codeId"])["properties"]["codeUri"]
        folder = self._state.copy(code, self._state.folder / "jobs" / name)
        mounts = self._state.blobs / CONTAINER / "azureml" / name
        command = job["command"]
        for output in job["outputs"]:
            (mounts / output).mkdir(parents=True, exist_ok=True)
            command = command.replace(f"${{{{outputs.{output}}}}}", str(mounts / output))

        def stopped() -> bool:
            return self._closing.is_set() or job["status"] == "Canceled"

        settings = {**self._settings, "AZUREML_RUN_ID": name}
        if preempt:
            started = processes.start(command, folder, job, settings, log)
            status = processes.wait(started, lambda: stopped() or any(mounts.glob(preempt)))
            if status is not None:
                return status
            with log.open("a") as file:
                file.write("[emulator] the node was taken away; the job starts again\n")
        if stopped():
            return 1
        started = processes.start(command, folder, job, settings, log)
        status = processes.wait(started, stopped)
        return 1 if status is None else status

    def running(self) -> list[str]:
        """Names of the jobs that have not ended."""
        return [name for name, thread in self._threads.items() if thread.is_alive()]

    def wait(self) -> None:
        """Waits until all jobs have ended."""
        for thread in list(self._threads.values()):
            thread.join()

    def close(self) -> None:
        """Ends all jobs that still run."""
        self._closing.set()
        self.wait()
