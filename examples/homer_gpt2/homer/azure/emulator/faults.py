"""What is to go wrong, and at which request: a JSON list rehearses each failure."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acpt_trainer import Problem, raise_if_any


@dataclass
class Fault:
    """One failure, and the requests that it strikes.

    Attributes:
        match: Regular expression that is searched in `METHOD https://HOST/PATH`.
        times: How many matching requests it strikes.
        skip: How many it lets pass before.
        interrupt: Send SIGINT to the command, as Ctrl-C would, and answer as usual.
        drop: Close the connection without an answer.
        drop_after: The same, after the request was carried out.
        status: HTTP status of the answer; its body is an error of ARM with `code` and `message`.
        code: Error code.
        message: Error text.
        body: JSON of the answer instead of that.
        headers: Headers of the answer.
        operation: The long operation that the request starts ends with this `code` and `message`.
        job: What becomes of the submitted job: either it is not run, and gets this `status` with
            `code` and `message`; or it is preempted, killed and started again, once a file in its
            outputs matches the glob `preempt`.
    """

    match: str
    times: int = 1
    skip: int = 0
    interrupt: bool = False
    drop: bool = False
    drop_after: bool = False
    status: int | None = None
    code: str = "Injected"
    message: str = "injected by the emulator"
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    operation: dict[str, str] | None = None
    job: dict[str, str] | None = None

    def strikes(self, line: str) -> bool:
        """Whether it strikes this request; counts those that it lets pass."""
        if self.times <= 0 or not re.search(self.match, line):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        self.times -= 1
        return True


def load_faults(path: Path) -> list[Fault]:
    """Reads a JSON list of faults.

    Raises:
        ConfigurationError: If it is not one.
    """
    fix = (
        f"write a JSON list of objects with {', '.join(f.name for f in dataclasses.fields(Fault))}"
    )
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(entries, list):
            raise TypeError("no list")
        return [Fault(**entry) for entry in entries]
    except (OSError, ValueError, TypeError) as error:
        raise_if_any([Problem(f"not a list of faults: {error}", f"--faults {path}", fix)])
        raise AssertionError from error
