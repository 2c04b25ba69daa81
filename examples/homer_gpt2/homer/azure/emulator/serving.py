"""One deployment, served: the uploaded `score.py` in the real inference server, on 127.0.0.1."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from homer.azure.emulator import processes
from homer.azure.emulator.protocol import Answer, Refused, Request, error_body
from homer.azure.emulator.state import State
from homer.azure.scoring import MODEL_STATUS

_APP = "azureml_inference_server_http.server.entry:app"
_SECONDS = re.compile(r"PT(?:(\d+)H)?(?:(\d+)M)?(?:([\d.]+)S)?")


def seconds(duration: str) -> float:
    """An ISO duration such as PT1M30S in seconds."""
    found = _SECONDS.fullmatch(duration)
    hours, minutes, rest = (float(part or 0) for part in found.groups()) if found else (0, 1, 0)
    return 3600 * hours + 60 * minutes + rest


class Server:
    """The server of one deployment.

    Args:
        state: Holds code and model.
        deployment: The deployment's properties as submitted.
        folder: For code, model and log.
        settings: Environment variables.
    """

    def __init__(
        self, state: State, deployment: dict[str, Any], folder: Path, settings: dict[str, str]
    ) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.log = folder / "log.txt"
        script = deployment["codeConfiguration"]
        code = state.get(script["codeId"])["properties"]["codeUri"]
        root = state.copy(code, folder / "code")
        limits = deployment.get("requestSettings") or {}
        self.timeout = seconds(limits.get("requestTimeout") or "PT5S")
        parallel = int(limits.get("maxConcurrentRequestsPerInstance") or 1)
        self._slots = threading.Semaphore(2 * parallel)
        given = deployment.get("environmentVariables") or {}
        self._port = processes.free_port()
        command = [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{self._port}"]
        command += ["--workers", given.get("WORKER_COUNT", "1"), "--timeout", "0", _APP]
        environment = {
            **settings,
            **given,
            "AZUREML_ENTRY_SCRIPT": script["scoringScript"],
            "AML_APP_ROOT": str(root),
            "AZUREML_MODEL_DIR": str(_place_model(state, deployment["model"], folder)),
            "SCORING_TIMEOUT_MS": str(int(self.timeout * 1000)),
        }
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=root,
                env=processes.environment(environment),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def ended(self) -> bool:
        """Whether it ended by itself, which is how `init()` fails."""
        return self._process.poll() is not None

    def healthy(self) -> bool:
        """Whether it answers the probe."""
        try:
            return self._ask("GET", "/", b"", {}, 5.0).status == 200
        except OSError:
            return False

    def score(self, request: Request) -> Answer:
        """Passes a request on, and answers as a managed endpoint would."""
        if not self._slots.acquire(blocking=False):
            raise Refused(429, "TooManyRequests", "too many requests at once")
        try:
            content = request.headers.get("Content-Type", "application/json")
            headers = {"Content-Type": content}
            answer = self._ask("POST", request.path, request.body, headers, self.timeout + 5)
        except TimeoutError:
            return Answer(408, error_body("RequestTimeout", "the model took too long"))
        except OSError as error:
            return Answer(503, error_body("ServiceUnavailable", f"no healthy instance: {error}"))
        finally:
            self._slots.release()
        if answer.status == 200:
            return answer
        return Answer(424, answer.body, {**answer.headers, MODEL_STATUS: str(answer.status)})

    def _ask(
        self, method: str, path: str, body: bytes, headers: dict[str, str], timeout: float
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            kind = {"Content-Type": response.headers.get("Content-Type", "application/json")}
            return Answer(response.status, response.read(), kind)
        except http.client.HTTPException as error:
            raise OSError(str(error) or type(error).__name__) from error
        finally:
            connection.close()

    def stop(self) -> None:
        """Ends it."""
        processes.stop([self._process])


def _place_model(state: State, model: str, folder: Path) -> Path:
    """Puts a model where the service mounts it: `azureml-models/NAME/VERSION/FOLDER`."""
    properties = state.get(model)["properties"]
    name, _, version = model.rpartition("/models/")[2].partition("/versions/")
    root = folder / "azureml-models" / name / version
    source = state.folder_of(properties["modelUri"])
    if not source.is_dir():
        raise Refused(400, "BadArgument", f"there are no files at {properties['modelUri']}")
    # Linked, not copied: a model may be large, and nobody writes to it.
    shutil.copytree(source, root / source.name, copy_function=os.link)
    return root
