"""The processes of a submitted job: the uploaded command, once for each rank, here."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NOT_INHERITED = ("AZURE_", "AZUREML_", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "PYTHONPATH")
_POLL = 0.05


def environment(settings: dict[str, str]) -> dict[str, str]:
    """What a job or a server finds in its environment: ours without credentials, and `settings`.

    `PYTHONPATH` is left out: what runs must come with the uploaded files or be installed.
    """
    kept = {k: v for k, v in os.environ.items() if not k.startswith(_NOT_INHERITED)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**kept, "PATH": path, **settings}


def free_port() -> int:
    """A port of the loopback interface that was free just now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ends processes with all that they started."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def start(
    command: str, folder: Path, job: dict[str, Any], settings: dict[str, str], log: Path
) -> list[subprocess.Popen[bytes]]:
    """Starts the processes of all nodes on this machine, with the ranks that Azure ML sets.

    Args:
        command: With its outputs filled in.
        folder: The uploaded files.
        job: The job's properties as submitted.
        settings: Environment variables.
        log: Gets what they print.
    """
    each = int((job.get("distribution") or {}).get("processCountPerInstance") or 1)
    count = each * int((job.get("resources") or {}).get("instanceCount") or 1)
    threads = str(max(1, (os.cpu_count() or 1) // count))
    shared = {
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
        **settings,
        **(job.get("environmentVariables") or {}),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(count),
    }
    with log.open("ab") as output:
        return [
            subprocess.Popen(
                ["bash", "-c", command],
                cwd=folder,
                env=environment(
                    {
                        **shared,
                        "RANK": str(rank),
                        "LOCAL_RANK": str(rank % each),
                        "NODE_RANK": str(rank // each),
                    }
                ),
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            for rank in range(count)
        ]


def wait(processes: list[subprocess.Popen[bytes]], ended: Callable[[], bool]) -> int | None:
    """Waits until all have ended well, one has failed, or `ended` says so; ends the others.

    Returns:
        The exit status, or None where `ended` said so.
    """
    try:
        while not ended():
            statuses = [process.poll() for process in processes]
            failed = [status for status in statuses if status]
            if failed:
                return failed[0]
            if all(status == 0 for status in statuses):
                return 0
            time.sleep(_POLL)
        return None
    finally:
        stop(processes)
