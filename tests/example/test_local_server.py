"""The server of this machine: whose port it is, and what is said when an answer is no answer."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aml_deploy
import homer.local_server as local_server
import pytest
from homer.azure.scoring import ScoringError, ask
from homer.local_server import LocalServer, ServerError, serving


@pytest.fixture
def stranger() -> Iterator[int]:
    """The port of a program that answers whatever it is asked with something that is no HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(b"no HTTP\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_answer_that_is_no_http_is_one_message(stranger: int) -> None:
    url = f"http://127.0.0.1:{stranger}/score"
    with pytest.raises(ScoringError, match="no HTTP"):
        ask(url, "a", patience=1, sleep=lambda seconds: None)


def test_stranger_on_the_port_is_not_healthy(stranger: int, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{stranger}"
    assert not LocalServer(url, SimpleNamespace(), tmp_path / "log").healthy()


def test_port_that_is_taken_is_refused(stranger: int, tmp_path: Path) -> None:
    with (
        pytest.raises(ServerError, match=f"cannot listen on port {stranger}: Address already"),
        serving(tmp_path, tmp_path / "log", port=stranger),
    ):
        pass
    assert not (tmp_path / "log").exists()


def test_port_out_of_range_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerError, match="cannot listen on port 70000"),
        serving(tmp_path, tmp_path / "log", port=70000),
    ):
        pass


def test_answer_of_another_program_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours has ended, and somebody else answers in its place."""
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    process.wait()
    (tmp_path / "log").write_text("the port is taken\n")
    monkeypatch.setattr(LocalServer, "healthy", lambda self: True)
    server = LocalServer("http://127.0.0.1:1", process, tmp_path / "log")
    with pytest.raises(ServerError, match=r"status 3; its log ends with:\n +the port is taken"):
        local_server._wait(server, 10)


def test_refused_prompt_shows_the_end_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*args: Any, **options: Any) -> None:
        raise ScoringError("status 500: the server's log says where")

    (tmp_path / "log").write_text("failed: ValueError at score.py:7\n")
    monkeypatch.setattr(aml_deploy, "ask", refused)
    server = LocalServer("http://127.0.0.1:1", SimpleNamespace(), tmp_path / "log")
    with pytest.raises(ServerError, match=r"status 500.*(\n.*)*ValueError at score.py:7"):
        aml_deploy.ask_here(server, "a")
