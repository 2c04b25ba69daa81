"""Blob storage: files in folders, metadata in memory, as far as the SDK's uploads need them."""

from __future__ import annotations

from homer.azure.emulator.protocol import Answer, Request
from homer.azure.emulator.state import State

_WRITTEN = {
    "ETag": '"1"',
    "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT",
    "x-ms-request-server-encrypted": "true",
}
_ABSENT = Answer(404, None, {"x-ms-error-code": "BlobNotFound"})


class Storage:
    """The storage account's answers.

    Args:
        state: Holds the blobs.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._metadata: dict[str, dict[str, str]] = {}

    def answer(self, request: Request) -> Answer:
        """Answers for `*.blob.core.windows.net`. Signatures are not checked."""
        file = self._state.folder_of(f"https://{request.host}{request.path}")
        if request.method == "PUT" and request.query.get("comp") == "metadata":
            self._metadata[request.path] = {
                name.lower(): value
                for name, value in request.headers.items()
                if name.lower().startswith("x-ms-meta-")
            }
            return Answer(200, None, dict(_WRITTEN))
        if request.method == "PUT":
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(request.body)
            return Answer(201, None, dict(_WRITTEN))
        if not file.is_file():
            return _ABSENT
        kind = {**_WRITTEN, "x-ms-blob-type": "BlockBlob"}
        if request.method == "HEAD":
            found = self._metadata.get(request.path, {})
            return Answer(200, None, {**kind, **found, "Content-Length": str(file.stat().st_size)})
        return Answer(200, file.read_bytes(), {**kind, "Content-Type": "text/plain"})
