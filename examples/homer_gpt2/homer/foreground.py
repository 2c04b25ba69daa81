"""Commands that end with us: Ctrl-C, the end of a pipeline's job, or of the terminal."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

_PATIENCE = 60.0
"""Seconds to end in: torchrun gives its workers 30."""


@contextlib.contextmanager
def ended_like_ctrl_c() -> Iterator[None]:
    """Within it, SIGTERM and SIGHUP are what Ctrl-C is, unless they are ignored, as by `nohup`."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    taken = {n: handler for n, handler in before.items() if handler is not signal.SIG_IGN}
    for number in taken:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in taken.items():
            signal.signal(number, handler)


def run(command: Sequence[str], cwd: Path, patience: float = _PATIENCE) -> int:
    """Runs a command to its end; when we are to end, it ends first, and all that it started.

    `subprocess.run` would kill torchrun at once, and leave its workers on the GPUs.

    Args:
        command: What to run.
        cwd: Where.
        patience: Seconds for it to end by itself once it is interrupted.

    Returns:
        Its exit status.
    """
    with ended_like_ctrl_c():
        # A process group of its own, so that Ctrl-C reaches it once, from here.
        process = subprocess.Popen(command, cwd=cwd, process_group=0)
        try:
            return process.wait()
        except KeyboardInterrupt:
            _end(process, patience)
            raise


def _end(process: subprocess.Popen[bytes], patience: float) -> None:
    started: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid).children(recursive=True)
    # A second Ctrl-C is for those who do not want to wait.
    with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
        process.send_signal(signal.SIGINT)
        process.wait(patience)
    with contextlib.suppress(psutil.NoSuchProcess):
        started += psutil.Process(process.pid).children(recursive=True)
    for left in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            left.kill()
    process.kill()
    process.wait()
