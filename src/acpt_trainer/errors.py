"""What can go wrong, said so that a user can act: what is wrong, where it was said, what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

USER_ERROR_STATUS = 2
"""Exit status of a script that stopped for a reason the user can mend."""


@dataclass(frozen=True)
class Problem:
    """One thing that stands in the way of what was asked.

    Attributes:
        what: What is wrong.
        where: Where it was said: an argument, a file, a key.
        fix: What to do about it.
    """

    what: str
    where: str
    fix: str

    def __str__(self) -> str:
        return f"{self.what}\n    where: {self.where}\n    fix:   {self.fix}"


class AcptError(Exception):
    """Base of every error that a user can mend; scripts report it without a stack trace."""


class ConfigurationError(AcptError):
    """Everything that was found wrong before work was started, in one error.

    Args:
        problems: All problems found, at least one.
        headline: What could not be started.
    """

    def __init__(self, problems: Iterable[Problem], headline: str = "Cannot start") -> None:
        self.problems = tuple(problems)
        if not self.problems:
            raise ValueError("a ConfigurationError needs at least one problem")
        count = len(self.problems)
        noun = "problem" if count == 1 else "problems"
        listed = "\n".join(f"{i}. {p}" for i, p in enumerate(self.problems, start=1))
        super().__init__(f"{headline}: {count} {noun} found.\n{listed}")


class UnknownStrategyError(ConfigurationError):
    """The name is not registered."""


class IncompatibleStrategiesError(ConfigurationError):
    """The strategies cannot be combined."""


class NotEngagedError(AcptError):
    """A strategy was asked for and did not run the step."""


class GraphBuildError(AcptError):
    """The model could not be turned into a training graph, or compiled.

    Args:
        message: What is wrong.
        fix: What to do about it, where there is more to do than take another strategy.
    """

    def __init__(self, message: str, fix: str | None = None) -> None:
        super().__init__(message)
        self.fix = fix


def raise_if_any(problems: Iterable[Problem], headline: str = "Cannot start") -> None:
    """Raises one `ConfigurationError` with all problems, if there are any.

    Args:
        problems: What was found.
        headline: What could not be started.

    Raises:
        ConfigurationError: If `problems` is not empty.
    """
    found = tuple(problems)
    if found:
        raise ConfigurationError(found, headline)


def _no_space_left(error: BaseException | None) -> bool:
    if error is None:
        return False
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    if "iostream error" in str(error) or "PytorchStreamWriter failed writing" in str(error):
        return True  # all that torch.save says of a write that the system refused
    # safetensors and torch raise their own types and keep the system's words.
    return type(error).__name__ in ("SafetensorError", "RuntimeError") and (
        "No space left on device" in str(error)
        or "code: 28" in str(error)
        or _no_space_left(error.__cause__ or error.__context__)
    )


_PATIENCE = 20.0
"""Seconds that a process leaves to the first one to say what both found wrong."""


def _wait_for_the_first_process() -> None:
    """Lets the first process say it for all, since all find the same configuration wrong.

    torchrun ends every process when one has ended, so the others must not be faster; when the
    first one has no fault to report they go on and report their own.
    """
    if os.environ.get("RANK", "0") != "0":
        time.sleep(_PATIENCE)


@contextlib.contextmanager
def reported_errors() -> Iterator[None]:
    """Turns a user's mistake into one message on stderr and exit status 2, without a stack trace.

    Ctrl-C ends with status 130. Anything else is a defect of ours and keeps its stack trace.

    Example:
        >>> with reported_errors():
        ...     main()
    """
    try:
        yield
    except AcptError as error:
        if isinstance(error, ConfigurationError):
            _wait_for_the_first_process()
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(USER_ERROR_STATUS) from error
    except KeyboardInterrupt as error:
        print("interrupted", file=sys.stderr, flush=True)
        raise SystemExit(130) from error
    except Exception as error:
        if not _no_space_left(error):
            raise
        print(
            f"error: No space left on the disk: {error}\n"
            "    fix:   free some space or choose another output folder, then run the same "
            "command again\n           (finetune.py with --resume); checkpoints and files written "
            "before are complete and are used.",
            file=sys.stderr,
            flush=True,
        )
        raise SystemExit(USER_ERROR_STATUS) from error
