"""Sends a prompt to an endpoint, here or in Azure, and reads its answer or its refusal."""

from __future__ import annotations

import contextlib
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from acpt_trainer import AcptError

PROMPT = "The king arose and"
"""The sample prompt."""
_SOON = (404, 429, 502, 503)
"""What an endpoint says that is new or busy: its route and its name in DNS take a while."""
MODEL_STATUS = "ms-azureml-model-error-statuscode"
"""Header in which an endpoint passes on the status of the model's own server."""


class ScoringError(AcptError):
    """The endpoint did not answer the prompt."""


def ask(
    url: str,
    prompt: str,
    key: str | None = None,
    *,
    patience: float = 60,
    timeout: float = 120,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Asks for the continuation of a prompt.

    This is no call of the SDK: `online_endpoints.invoke` of azure-ai-ml 1.35 loses the status of
    a refusal, and keeps the key and the deployment for later calls.

    Args:
        url: Where prompts are answered.
        prompt: A text.
        key: The endpoint's key.
        patience: Seconds for which an endpoint that is not ready is asked again.
        timeout: Seconds for one answer.
        sleep: Waits.

    Returns:
        The answer as `score.py` gives it.

    Raises:
        ScoringError: If there is none.
    """
    if key is not None and not url.startswith("https://"):
        raise ScoringError("the address is not https, so the key is not sent")
    body = json.dumps({"prompt": prompt, "max_new_tokens": 40, "seed": 42}).encode()
    headers = {"Content-Type": "application/json"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    waited, pause = 0.0, 1.0
    while True:
        # Made anew each time: behind a proxy urllib turns a request that it sends for the third
        # time into one in the clear, with the key.
        request = urllib.request.Request(url, data=body, headers=headers)
        try:
            with _opener(url).open(request, timeout=timeout) as answer:
                return _read(answer.read())
        except urllib.error.HTTPError as error:
            failed, again = _refusal(error), error.code in _SOON
        except (OSError, http.client.HTTPException) as error:
            failed, again = f"no answer: {_reason(error)}", True
        if not again or waited >= patience:
            raise ScoringError(failed)
        sleep(pause)
        waited, pause = waited + pause, min(2 * pause, 10.0)


class _StaysHere(urllib.request.HTTPRedirectHandler):
    """Follows no redirection, which would take the key along."""

    def redirect_request(self, *args: Any) -> None:
        """Leaves the redirection as the error that it is here."""


def _opener(url: str) -> urllib.request.OpenerDirector:
    # A proxy of the environment is for the network, not for this machine.
    local = urlsplit(url).hostname == "127.0.0.1"
    direct = [urllib.request.ProxyHandler({})] if local else []
    return urllib.request.build_opener(_StaysHere, *direct)


def _read(content: bytes) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(content)
        if isinstance(answer["answers"][0]["text"], str):
            return answer
    except (ValueError, LookupError, TypeError):
        pass
    raise ScoringError("the endpoint answered 200 with something that is no answer of score.py")


def _reason(error: Exception) -> str:
    # Some errors of http.client have no text.
    return str(getattr(error, "reason", error)) or type(error).__name__


def _refusal(error: urllib.error.HTTPError) -> str:
    """What a refusal says. Azure puts 424 over what the model's own server said."""
    status = str(error.code)
    inner = error.headers.get(MODEL_STATUS)
    if inner:
        status += f" (the model's server: {inner})"
    content = b""
    with contextlib.suppress(OSError, http.client.HTTPException):
        content = error.read(2000)
    try:
        said = json.loads(content)
        text = said["error"]["message"] if isinstance(said.get("error"), dict) else said["message"]
    except (ValueError, LookupError, TypeError, AttributeError):
        text = content.decode("utf-8", errors="replace").strip() or error.reason
    return f"status {status}: {text}"
