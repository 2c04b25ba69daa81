"""What a patch of a foreign library is: a reason, a scope, and a way back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum

UNMAINTAINED = "none open: ONNX Runtime training is no longer maintained (onnxruntime#24905)"
NOT_REPORTED = "not reported to https://github.com/huggingface/transformers/issues"


class Scope(Enum):
    """How long a patch stays in place."""

    PROCESS = "from the first use of ONNX Runtime training until `stop()`"
    BUILD = "only while a training graph is exported and built"


@dataclass(frozen=True)
class Patch:
    """One mend of a foreign library.

    Attributes:
        name: Short name, shown by reports.
        target: What is patched.
        versions: The versions it is for.
        why: What breaks without it.
        upstream: The upstream report.
        until: When it can go.
        scope: How long it stays in place.
        needed: Whether the installed versions need it; a patch that is not needed is inert.
        apply: Puts it in place and registers its undoing on the given stack.
    """

    name: str
    target: str
    versions: str
    why: str
    upstream: str
    until: str
    scope: Scope
    needed: Callable[[], bool]
    apply: Callable[[ExitStack], None]
