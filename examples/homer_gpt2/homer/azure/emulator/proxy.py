"""A CONNECT proxy on the loopback interface that ends TLS itself and answers for Azure's hosts."""

from __future__ import annotations

import contextlib
import ssl
import threading
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from homer.azure.emulator.protocol import Answer, Request

HOSTS = (
    "management.azure.com",
    "login.microsoftonline.com",
    "*.blob.core.windows.net",
    "*.api.azureml.ms",
    "*.eastus.inference.ml.azure.com",
)
"""Hosts that are played; a star stands for one label."""


class Dropped(Exception):
    """The connection is to be closed without an answer."""


def is_played(host: str) -> bool:
    """Whether the emulator answers for this host."""
    return host in HOSTS or f"*.{host.partition('.')[2]}" in HOSTS


class Proxy(ThreadingHTTPServer):
    """The proxy. Listens when made; `start` serves in a thread of its own.

    Args:
        tls: The server's side of TLS.
        answer: Called for each request to a host that is played.
        refuse: Called with each address that is not.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self,
        tls: ssl.SSLContext,
        answer: Callable[[Request], Answer],
        refuse: Callable[[str], None],
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.tls, self.answer, self.refuse = tls, answer, refuse
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """Its address, for `HTTPS_PROXY`."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def start(self) -> None:
        """Serves until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Ends; connections that are open are left to the clients."""
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that breaks off is no news; a route's own defect is answered with 500."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy
    host = ""

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_CONNECT(self) -> None:
        host = self.path.rsplit(":", 1)[0]
        if not is_played(host):
            self.server.refuse(self.path)
            self._send(Answer(502))
            self.close_connection = True
            return
        self.send_response(200)
        self.end_headers()
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb", -1)
        self.wfile = self.connection.makefile("wb", 0)
        self.host = host
        self.close_connection = False
        with contextlib.suppress(Dropped):
            while not self.close_connection:
                self.handle_one_request()
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.close()

    def _any(self) -> None:
        body = self._body()
        if not self.host:  # plain http, which none of Azure's hosts is asked by
            self.server.refuse(self.path)
            self._send(Answer(502))
            self.close_connection = True
            return
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self._send(
            self.server.answer(
                Request(self.command, self.host, unquote(parts.path), query, self.headers, body)
            )
        )

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = do_HEAD = _any

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, answer: Answer) -> None:
        content = answer.content
        self.send_response(answer.status)
        headers = {"x-ms-request-id": str(uuid.uuid4()), **answer.headers}
        if content:
            headers.setdefault("Content-Type", "application/json")
        if answer.status != 204:
            headers.setdefault("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
