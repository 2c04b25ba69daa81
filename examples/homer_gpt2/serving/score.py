"""Answers prompts behind Azure ML's inference server: `init()` once, `run()` for each request.

This folder is what a deployment uploads. `{"prompt": "Sing, O goddess"}` or a list of texts, and
optionally `max_new_tokens`, `temperature`, `top_k`, `top_p` and `seed`, is answered with
`{"seed": ..., "answers": [{"text", "new_tokens", "finish_reason"}, ...]}`. What is not answered
gets `{"error": {"code", "message"}}` and a status that says why.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

# The server loads this file by its path, so its neighbours are not found without this.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from azureml_inference_server_http.api.aml_request import AMLRequest, rawhttp
from azureml_inference_server_http.api.aml_response import AMLResponse
from score_folder import find_model
from score_request import Limits, RequestError, parse, too_large

_DRAINED, _PIECE = 16_000_000, 64_000
"""Bytes of a body over the limit that are read and dropped, and how many of them at once."""


class Service:
    """The model and its queue: one request is answered at a time, a few wait, more are refused.

    Args:
        model: Answers; see `score_model.Model`.
        limits: What a request may cost.
    """

    def __init__(self, model: Any, limits: Limits) -> None:
        self._model = model
        self._limits = limits
        self._places = threading.BoundedSemaphore(1 + limits.waiting)
        self._turn = threading.Lock()

    def answer(self, http: AMLRequest) -> dict[str, Any]:
        """Answers a request.

        Raises:
            RequestError: If it is not answered.
        """
        deadline = time.monotonic() + self._limits.seconds
        request = parse(self._body(http), self._limits)
        if not self._places.acquire(blocking=False):
            raise RequestError(429, "busy", "too many requests wait; try again")
        try:
            if not self._turn.acquire(timeout=max(0.0, deadline - time.monotonic())):
                raise RequestError(503, "busy", "no turn within the time limit; try again")
            try:
                answers = self._model.generate(request, deadline)
            finally:
                self._turn.release()
        finally:
            self._places.release()
        tokens = sum(answer.new_tokens for answer in answers)
        print(f"answered {len(answers)} prompt(s), {tokens} new tokens, seed {request.seed}")
        return {"seed": request.seed, "answers": [answer.to_dict() for answer in answers]}

    def _body(self, http: AMLRequest) -> bytes:
        if http.method != "POST":
            raise RequestError(405, "method", "only POST is answered")
        body: bytes = http.stream.read(self._limits.bytes + 1)
        if len(body) > self._limits.bytes:
            # Many a client reads its answer only when all is sent, and gunicorn drops a connection
            # that has much left on it, with the client's next request.
            for _ in range(_DRAINED // _PIECE):
                if not http.stream.read(_PIECE):
                    break
            raise too_large(self._limits)
        return body


_service: Service | None = None


def init() -> None:
    """Loads the model below `AZUREML_MODEL_DIR`; what is wrong with it ends the server."""
    global _service
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        limits = Limits.from_environment(os.environ)
        folder = find_model(Path(os.environ["AZUREML_MODEL_DIR"]))
        # Imported here: what is wrong above should not wait for torch.
        from score_model import Model

        _service = Service(Model(folder), limits)
    except (OSError, ValueError) as error:
        print(f"cannot serve: {error}")
        raise
    print(f"serving {folder} with {limits}")


@rawhttp
def run(raw: AMLRequest) -> AMLResponse:
    """Answers one request; whatever happens, with JSON and a status that says it."""
    assert _service is not None
    try:
        return AMLResponse(_service.answer(raw), 200, json_str=True)
    except RequestError as error:
        print(f"refused with {error.status} ({error.code})")
        headers = {"Retry-After": "1"} if error.code == "busy" else {}
        return AMLResponse(error.body(), error.status, headers, json_str=True)
    except Exception as error:
        # An error's message may quote the prompt: its type and place must do.
        place = traceback.extract_tb(error.__traceback__)[-1]
        print(f"failed: {type(error).__name__} at {place.filename}:{place.lineno}")
        answer = RequestError(500, "internal", "the answer failed; the server's log says where")
        return AMLResponse(answer.body(), 500, json_str=True, run_function_failed=True)
