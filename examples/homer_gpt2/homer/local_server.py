"""Serves a model folder on this machine with the inference server that Azure ML uses."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from acpt_trainer import AcptError

SERVING = Path(__file__).resolve().parent.parent / "serving"
"""What a deployment uploads: score.py and its neighbours."""

SERVER_SETTINGS = {
    # One process holds the model. Its threads answer the health probe while one of them generates:
    # without them the probe waits, and a long generation looks like a dead container.
    "GUNICORN_CMD_ARGS": "--worker-class gthread --threads 8",
    "WORKER_COUNT": "1",
}
"""Environment of the server, here and in the cloud. More threads than score.py lets wait."""


class ServerError(AcptError):
    """The local server did not start, or ended."""


@dataclass(frozen=True)
class LocalServer:
    """A running server.

    Attributes:
        url: Where it answers, on 127.0.0.1.
        process: The server.
        log: What it writes.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def scoring_url(self) -> str:
        """Where prompts are sent."""
        return f"{self.url}/score"

    def check(self) -> None:
        """Raises `ServerError` with what the log says if the server has ended."""
        status = self.process.poll()
        if status is not None:
            raise ServerError(f"the server ended with status {status}; {self.said()}")

    def said(self) -> str:
        """The end of its log, for a message: the log may be gone by the time that it is read."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        # score.py says in one line what the server shows as two stack traces.
        said = [line for line in lines if "cannot serve: " in line][-1:] or lines[-15:]
        return "its log ends with:\n" + "\n".join(f"    {line}" for line in said)

    def healthy(self) -> bool:
        """Whether the health probe is answered."""
        # No proxy of the environment has a say in what happens on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.url}/", timeout=5) as answer:
                return bool(answer.status == 200)
        except (OSError, http.client.HTTPException):
            return False


@contextlib.contextmanager
def serving(
    model_dir: Path,
    log: Path,
    *,
    port: int = 0,
    timeout: float = 300,
) -> Iterator[LocalServer]:
    """Serves a model folder for the time of a `with` block.

    The command `azmlinfsrv` binds every address of the machine and asks for no key, so its
    application is run by gunicorn on 127.0.0.1 instead.

    Args:
        model_dir: Holds the model, at any depth.
        log: File for what the server writes.
        port: Where to listen; 0 takes a free one.
        timeout: Seconds that it may take to start.

    Raises:
        ServerError: If it ends or does not answer in time.
    """
    port = _free_port(port)
    environment = os.environ | SERVER_SETTINGS
    environment |= {
        "AZUREML_ENTRY_SCRIPT": "score.py",
        "AML_APP_ROOT": str(SERVING.resolve()),
        "AZUREML_MODEL_DIR": str(model_dir.resolve()),
    }
    command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}"]
    command += ["--timeout", "300", "--graceful-timeout", "5"]
    command += ["--no-control-socket", "azureml_inference_server_http.server.entry:app"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            # Ctrl-C is for us; we end the server ourselves.
            start_new_session=True,
        )
    server = LocalServer(f"http://127.0.0.1:{port}", process, log)
    try:
        _wait(server, timeout)
        yield server
    finally:
        _end(process)


def _wait(server: LocalServer, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not server.healthy():
        server.check()
        if time.monotonic() > deadline:
            what = f"the server did not answer in {timeout:.0f} s"
            raise ServerError(f"{what}; {server.said()}")
        time.sleep(0.1)
    # Another program may have taken the port meanwhile, and have answered.
    server.check()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_port(wanted: int) -> int:
    """The port, or any free one for 0; a taken one would let another program answer for us."""
    with socket.socket() as probe:
        # As gunicorn does: connections that are closing are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise ServerError(f"cannot listen on port {wanted}: {why}") from error
        port: int = probe.getsockname()[1]
        return port
