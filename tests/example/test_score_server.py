"""score.py in the real inference server: bad bodies, many clients, the probe, the log."""

from __future__ import annotations

import http.client
import json
import select
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from homer.local_server import LocalServer, ServerError, serving
from hypothesis import given, settings
from score_bodies import BAD_BODIES, GOOD

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with serving(model_dir, tmp_path_factory.mktemp("server") / "log.txt") as running:
        yield running


class Client:
    """Keeps a connection, as clients do."""

    def __init__(self, server: LocalServer) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=120)

    def send(self, content: Any, method: str = "POST", **headers: str) -> tuple[int, Any]:
        try:
            self.start(content, method, **headers)
            return self.finish()
        except (http.client.RemoteDisconnected, ConnectionError):
            # gunicorn closes a connection that was idle for 2 s, just when we use it again.
            self._connection.close()
            self.start(content, method, **headers)
            return self.finish()

    def start(self, content: Any, method: str = "POST", **headers: str) -> None:
        self._connection.request(method, "/score", content, headers)

    def finish(self) -> tuple[int, Any]:
        answer = self._connection.getresponse()
        return answer.status, json.loads(answer.read())

    def answered(self) -> bool:
        """Whether an answer has arrived that was not read yet."""
        return bool(select.select([self._connection.sock], [], [], 0)[0])


def good(server: LocalServer, **changes: Any) -> tuple[int, Any]:
    return Client(server).send(json.dumps(GOOD | changes).encode())


def test_seed_is_echoed_and_repeats_the_answer(server: LocalServer) -> None:
    status, first = good(server, prompt=["The king", "O"])
    assert (status, first["seed"], len(first["answers"])) == (200, 1, 2)
    assert good(server, prompt=["The king", "O"]) == (200, first)
    unseeded = Client(server).send(b'{"prompt": "O", "max_new_tokens": 3}')[1]
    assert good(server, prompt="O", max_new_tokens=3, seed=unseeded["seed"])[1] == unseeded


@pytest.mark.parametrize("bodies", [200, pytest.param(2000, marks=pytest.mark.long)])
def test_bad_bodies_are_refused_and_the_server_stays(server: LocalServer, bodies: int) -> None:
    client, seen = Client(server), Counter[int]()

    @given(content=BAD_BODIES)
    @settings(max_examples=bodies, derandomize=True, database=None, deadline=None)
    def refused(content: bytes) -> None:
        status, answer = client.send(content)
        seen[status] += 1
        assert status in (400, 413, 422), (content[:200], answer)
        assert set(answer["error"]) == {"code", "message"}

    refused()
    assert sum(seen.values()) >= bodies
    assert set(seen) == {400, 413, 422}
    assert server.healthy()
    assert good(server)[0] == 200


@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain", "application/x-www-form-urlencoded", ""]
)
def test_content_type_does_not_matter(server: LocalServer, content_type: str) -> None:
    content = json.dumps(GOOD).encode()
    assert Client(server).send(content, **{"Content-Type": content_type})[0] == 200


def test_large_body_is_refused_and_its_connection_kept(server: LocalServer) -> None:
    client = Client(server)
    for size in (70_000, 5_000_000):
        assert client.send(b"a" * size)[0] == 413
        assert client.send(json.dumps(GOOD).encode())[0] == 200


def test_body_in_chunks_has_the_same_limit(server: LocalServer) -> None:
    client = Client(server)
    assert client.send([json.dumps(GOOD).encode()])[0] == 200
    assert client.send([b'{"prompt": "'] + [b"a" * 1000] * 100)[0] == 413
    assert client.send(json.dumps(GOOD).encode())[0] == 200


def test_probe_is_answered_while_a_generation_runs(server: LocalServer) -> None:
    long = {"prompt": ["O king"] * 16, "max_new_tokens": 110, "temperature": 5.0, "top_k": 0}
    client = Client(server)
    client.start(json.dumps(GOOD | long).encode())
    # A server without threads answers in turn: the generation, which came first, before the probe.
    assert server.healthy()
    assert not client.answered()
    assert client.finish()[0] == 200


def test_eight_clients_are_answered_or_refused(server: LocalServer) -> None:
    worker = psutil.Process(server.process.pid).children()[0]

    def client(number: int) -> Counter[int]:
        mine, found = Client(server), Counter[int]()
        for index in range(25):
            content = GOOD | {"prompt": "O king " * (1 + index % 5), "seed": number}
            found[mine.send(json.dumps(content).encode())[0]] += 1
        return found

    def all_clients() -> Counter[int]:
        with ThreadPoolExecutor(8) as pool:
            return sum(pool.map(client, range(8)), Counter())

    all_clients()
    before = worker.memory_info().rss
    seen = all_clients()
    assert sum(seen.values()) == 200
    assert set(seen) <= {200, 429, 503}
    assert seen[200] > 0
    assert worker.memory_info().rss - before < 20e6
    assert good(server)[0] == 200


def test_log_holds_no_prompt(server: LocalServer) -> None:
    assert good(server, prompt="Xanthippus rules")[0] == 200
    assert good(server, prompt="Xanthippus rules", seed=-1)[0] == 422
    assert good(server, prompt=["Xanthippus rules", 3])[0] == 400
    log = server.log.read_text()
    assert "answered 1 prompt(s)" in log
    assert "refused with 422" in log
    assert "Xanthippus" not in log


def test_server_without_a_model_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(ServerError, match=r"cannot serve: .* holds no folder"),
        serving(tmp_path, tmp_path / "log.txt"),
    ):
        pass
