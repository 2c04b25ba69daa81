"""Download of the source files, from a server on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from homer import download
from made_up_book import contents, forbid_network, sha256

from acpt_trainer import ConfigurationError


class Server(ThreadingHTTPServer):
    """Answers each request with the next of `answers`: a status, or bytes to send."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[int | bytes] = []
        self.announced_extra = 0
        self.requests: list[str] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/files/{name}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        answer = self.server.answers.pop(0)
        if isinstance(answer, int):
            self.send_error(answer)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer) + self.server.announced_extra))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_download_is_verified_and_kept(server: Server, tmp_path: Path) -> None:
    server.answers = [b"poem"]
    cache = tmp_path / "new" / "cache"
    path = download.fetch(server.url("a.txt"), cache, sha256(b"poem"))
    assert path == cache / "a.txt"
    assert contents(cache) == {"a.txt": b"poem"}
    download.fetch(server.url("a.txt"), cache, sha256(b"poem"))
    assert server.requests == ["/files/a.txt"]


def test_server_error_is_tried_again_with_growing_waits(server: Server, tmp_path: Path) -> None:
    server.answers = [500, 503, b"poem"]
    waits: list[float] = []
    path = download.fetch(server.url("a.txt"), tmp_path, sha256(b"poem"), sleep=waits.append)
    assert path.read_bytes() == b"poem"
    assert waits == [1, 2]


def test_not_found_is_not_tried_again(server: Server, tmp_path: Path) -> None:
    server.answers = [404, b"poem"]
    waits: list[float] = []
    with pytest.raises(ConfigurationError, match="HTTP 404"):
        download.fetch(server.url("a.txt"), tmp_path, sha256(b"poem"), sleep=waits.append)
    assert len(server.requests) == 1
    assert waits == []
    assert contents(tmp_path) == {}


def test_truncated_download_is_tried_again_and_never_kept(server: Server, tmp_path: Path) -> None:
    server.answers = [b"po", b"po", b"po"]
    server.announced_extra = 2
    with pytest.raises(ConfigurationError, match="truncated: 2 of 4 bytes"):
        # The digest of what arrives: the length alone must give it away.
        download.fetch(
            server.url("a.txt"), tmp_path, sha256(b"po"), attempts=3, sleep=lambda _: None
        )
    assert len(server.requests) == 3
    assert contents(tmp_path) == {}


def test_download_with_wrong_checksum_is_not_kept(server: Server, tmp_path: Path) -> None:
    server.answers = [b"other"]
    with pytest.raises(ConfigurationError) as caught:
        download.fetch(server.url("a.txt"), tmp_path, sha256(b"poem"))
    message = str(caught.value)
    assert sha256(b"poem") in message
    assert sha256(b"other") in message
    assert contents(tmp_path) == {}


def test_timeout_is_tried_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers = [b"poem"]
    real, calls = download._read_all, []

    def first_times_out(*args: Any) -> bytes:
        calls.append(args)
        if len(calls) == 1:
            server.answers.append(b"poem")
            raise TimeoutError("timed out")
        return real(*args)

    monkeypatch.setattr(download, "_read_all", first_times_out)
    waits: list[float] = []
    path = download.fetch(server.url("a.txt"), tmp_path, sha256(b"poem"), sleep=waits.append)
    assert path.read_bytes() == b"poem"
    assert waits == [1]


def test_cached_file_is_used_without_fetching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_network(monkeypatch)
    (tmp_path / "a.txt").write_bytes(b"poem")
    path = download.fetch("https://host.invalid/x/a.txt", tmp_path, sha256(b"poem"))
    assert path == tmp_path / "a.txt"


def test_wrong_cached_file_is_named_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_network(monkeypatch)
    (tmp_path / "a.txt").write_bytes(b"other")
    wanted = [("https://h.invalid/a.txt", sha256(b"poem")), ("https://h.invalid/b.txt", "0" * 64)]
    with pytest.raises(ConfigurationError) as caught:
        download.fetch_all(wanted, tmp_path)
    message = str(caught.value)
    for part in (str(tmp_path / "a.txt"), sha256(b"poem"), sha256(b"other"), "delete", "mend"):
        assert part in message
    assert contents(tmp_path) == {"a.txt": b"other"}


@pytest.mark.parametrize("url", ["ftp://h.invalid/a.txt", "file:///a.txt", "https://h.invalid/"])
def test_only_http_files_are_fetched(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigurationError, match="not an http or https URL"):
        download.fetch(url, tmp_path, "0" * 64)


def test_redirect_to_another_scheme_is_not_followed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def redirect(handler: Handler) -> None:
        handler.send_response(302)
        handler.send_header("Location", "ftp://127.0.0.1:9/a.txt")
        handler.end_headers()

    monkeypatch.setattr(Handler, "do_GET", redirect)
    with pytest.raises(ConfigurationError, match="unknown url type: ftp"):
        download.fetch(server.url("a.txt"), tmp_path, "0" * 64, attempts=1)


def test_missing_files_are_one_problem_with_both_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any) -> bytes:
        raise download.DownloadError("no connection", again=True)

    monkeypatch.setattr(download, "_download", unreachable)
    wanted = [(f"https://h.invalid/{name}.txt", "0" * 64) for name in "ab"]
    waits: list[float] = []
    with pytest.raises(ConfigurationError) as caught:
        download.fetch_all(wanted, tmp_path / "none", attempts=3, sleep=waits.append)
    (problem,) = caught.value.problems
    assert "https://h.invalid/a.txt" in problem.what
    assert "https://h.invalid/b.txt" in problem.what
    assert f"--cache_dir {tmp_path / 'none'}" in problem.where
    assert "put a.txt, b.txt there" in problem.fix
    assert "--source sample" in problem.fix
    assert waits == [1, 2, 1, 2]
