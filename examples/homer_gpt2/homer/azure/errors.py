"""What stops an `aml_*.py` script: problems in three parts, and the exit status they end with."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator

from acpt_trainer import ConfigurationError, Problem, reported_errors

USAGE = 2
"""Exit status: the command line or a file says something that cannot be done."""
CREDENTIALS = 3
"""Exit status: Azure does not know who is asking."""
NOT_FOUND = 4
"""Exit status: what was named is not there, or may not be used by this user."""
SERVICE = 5
"""Exit status: the service failed, or the job did."""


class AzureError(ConfigurationError):
    """Problems, with the exit status that they end the script with.

    Args:
        problems: All problems found, at least one.
        headline: What could not be done.
        status: `USAGE`, `CREDENTIALS`, `NOT_FOUND` or `SERVICE`.
    """

    def __init__(
        self, problems: Iterable[Problem], headline: str = "Cannot start", status: int = USAGE
    ) -> None:
        super().__init__(problems, headline)
        self.status = status


def not_installed(module: str, extra: str) -> list[Problem]:
    """The problem that a module is missing, looked for without loading it.

    Args:
        module: Its dotted name.
        extra: The extra of the package that brings it.
    """
    try:
        missing = importlib.util.find_spec(module) is None
    except ModuleNotFoundError:  # not even the package around it
        missing = True
    if not missing:
        return []
    what = f"the module {module} is not installed"
    return [Problem(what, "this Python", f"pip install 'acpt-trainer[{extra}]'")]


@contextlib.contextmanager
def reported(debug: bool = False) -> Iterator[None]:
    """Turns an `AzureError` into one message on stderr and its exit status.

    Other mistakes end with 2 and Ctrl-C with 130, as in the other scripts.

    Args:
        debug: Also show the stack trace of the SDK's error behind the message.
    """
    with reported_errors():
        try:
            yield
        except AzureError as error:
            if debug and error.__cause__ is not None:
                traceback.print_exception(error.__cause__)
            print(f"error: {error}", file=sys.stderr, flush=True)
            raise SystemExit(error.status) from error
