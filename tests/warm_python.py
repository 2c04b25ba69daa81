"""Runs Python command lines in forks of one process that has imported what takes long to import.

A script that trains spends about six seconds of a processor on the imports of PyTorch and
Transformers before it does anything. A fork starts with them, and with nothing of ours: what
`acpt_trainer` imports, patches or reads of the environment happens in each process anew.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

IMPORTS = ("torch", "transformers.trainer", "transformers.models.gpt2.modeling_gpt2")
"""What each script of a Trainer imports, whatever its strategy: no engine, nothing of ours."""


class WarmPython:
    """Runs command lines as `python` would, or as torchrun would for several processes.

    Args:
        env: The environment of the imports. Each run has its own.
        imports: The modules.
    """

    def __init__(self, env: Mapping[str, str], imports: Sequence[str] = IMPORTS) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__, *imports],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(env),
        )  # fmt: skip

    def __call__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        processes: int = 1,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        """Runs a script, or `-c` and code, with its arguments.

        Raises:
            subprocess.TimeoutExpired: It took too long, and was killed.
        """
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder) / "out", Path(folder) / "err"
            files = {"out": str(out), "err": str(err), "cwd": str(cwd or Path.cwd())}
            ranks = [dict(env) | place for place in _places(processes)]
            self._say({"argv": [str(word) for word in command], "ranks": ranks, **files})
            pids, codes = self._hear(None), None
            try:
                codes = self._hear(timeout)
            finally:
                if codes is None:  # also where a test is interrupted: the next has its own answers
                    for pid in pids:
                        with contextlib.suppress(ProcessLookupError):
                            os.killpg(pid, signal.SIGKILL)
                    self._hear(None)
            if codes is None:
                raise subprocess.TimeoutExpired(list(command), timeout)
            failed = next((code for code in codes if code), 0)
            said = (file.read_text() if file.exists() else "" for file in (out, err))
            return subprocess.CompletedProcess(list(command), failed, *said)

    def stop(self) -> None:
        """Ends the process."""
        self._server.communicate()

    def _say(self, request: dict[str, Any]) -> None:
        print(json.dumps(request), file=self._server.stdin, flush=True)

    def _hear(self, timeout: float | None) -> Any:
        ready, _, _ = select.select([self._server.stdout], [], [], timeout)
        if not ready:
            return None
        return json.loads(self._server.stdout.readline())


def _places(processes: int) -> list[dict[str, str]]:
    """What torchrun tells each of several processes."""
    if processes == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {
        "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
    }  # fmt: skip
    return [{"RANK": str(i), "LOCAL_RANK": str(i), **shared} for i in range(processes)]


# --- in the process itself -----------------------------------------------------------------------


def serve(modules: Sequence[str]) -> list[str]:
    """Imports modules, and forks for each line of the standard input.

    Returns:
        In a fork, what to run; in the process itself nothing, when the input has ended.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a module prints as it is imported is no answer
    own = {str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    sys.path[:] = [entry for entry in sys.path if entry not in own]
    for module in modules:
        importlib.import_module(module)
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        pids = []
        for environment in request["ranks"]:
            pid = os.fork()
            if not pid:
                answers.close()
                _become(request, environment)
                return request["argv"]
            with contextlib.suppress(OSError):  # the fork may have done so, or have ended
                os.setpgid(pid, pid)
            pids.append(pid)
        print(json.dumps(pids), file=answers, flush=True)
        print(json.dumps(_wait(pids)), file=answers, flush=True)
    return []


def _become(request: dict[str, Any], environment: dict[str, str]) -> None:
    """Makes a fork what a process of its own would be."""
    os.setpgid(0, 0)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(environment)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, number)
    for stream in (sys.stdout, sys.stderr):  # whole lines, whatever PYTHONUNBUFFERED was: forks
        stream.reconfigure(line_buffering=True, write_through=False)  # share the files
    added = [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:0] = added


def _wait(pids: Sequence[int]) -> list[int]:
    """Waits for all, and ends the others when one fails; returns how each ended, in that order."""
    codes: dict[int, int] = {}
    while len(codes) < len(pids):
        pid, status = os.wait()
        codes[pid] = os.waitstatus_to_exitcode(status)
        if codes[pid]:
            for other in set(pids) - set(codes):
                os.killpg(other, signal.SIGTERM)
    return list(codes.values())  # the first to fail is the cause


def run(argv: Sequence[str]) -> None:
    """Runs a script, or `-c` and code, as the main module."""
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    if argv[0] == "-c":
        sys.path.insert(0, "")
        sys.argv, code = ["-c", *argv[2:]], compile(argv[1], "<string>", "exec")
    else:
        sys.path.insert(0, str(Path(argv[0]).resolve().parent))
        sys.argv, main.__file__ = list(argv), argv[0]
        code = compile(Path(argv[0]).read_bytes(), argv[0], "exec")
    exec(code, vars(main))


if __name__ == "__main__":
    argv = serve(sys.argv[1:])
    if argv:
        run(argv)
