"""SIGTERM as an exception, only where nobody else answers it."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from acpt_trainer.signals import orderly_sigterm


def test_sigterm_undoes_what_is_under_way() -> None:
    with pytest.raises(SystemExit) as ended, orderly_sigterm():
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_handler_of_the_script_stays() -> None:
    told = []
    before = signal.signal(signal.SIGTERM, lambda *_: told.append(True))
    try:
        with orderly_sigterm():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert told == [True]


def test_other_threads_set_no_handler() -> None:
    found = []

    def look() -> None:
        with orderly_sigterm():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]
