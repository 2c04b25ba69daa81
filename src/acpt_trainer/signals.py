"""SIGTERM as an exception: what is under way is undone before the process ends."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def orderly_sigterm() -> Iterator[None]:
    """Turns SIGTERM into `SystemExit(143)` within the block.

    By default it ends Python at once, and temporary folders and processes stay behind. A handler
    that the script has is left in place, and so is everything outside the main thread.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
