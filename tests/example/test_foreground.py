"""Commands run in the foreground: when we are to end, nothing that they started is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest
from finetune_runs import EXAMPLE
from homer.foreground import ended_like_ctrl_c

_WORKER = "import time, sys; sys.stdout.write('ready'); sys.stdout.flush(); time.sleep(600)"
_LAUNCHER = """
import signal, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", {worker!r}], start_new_session=True,
                          stdout=subprocess.PIPE)
worker.stdout.read(5)
def end(*_):
    if {polite}:
        time.sleep(1)  # longer than subprocess.run gives
        worker.kill()
        worker.wait()
        sys.exit(7)
signal.signal(signal.SIGINT, end)
print("worker", worker.pid, flush=True)
while True:
    time.sleep(0.1)
"""
"""As torchrun: its worker has a session of its own, which no Ctrl-C and no kill of it reaches."""
_US = """
import sys
from pathlib import Path
from homer.foreground import run
try:
    run([sys.executable, "-c", {launcher!r}], Path("."), patience={patience})
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("polite", [True, False])
def test_no_worker_outlives_us(polite: bool, number: signal.Signals) -> None:
    launcher = _LAUNCHER.format(worker=_WORKER, polite=polite)
    code = _US.format(launcher=launcher, patience=60 if polite else 0.5)
    us = subprocess.Popen(
        [sys.executable, "-c", code], cwd=EXAMPLE, stdout=subprocess.PIPE, text=True
    )
    worker = psutil.Process(int(us.stdout.readline().split()[1]))
    started = [*psutil.Process(us.pid).children(recursive=True)]
    assert worker in started
    os.kill(us.pid, number)
    try:
        assert us.wait(60) == 130
        gone, left = psutil.wait_procs(started, timeout=10)
        assert not left, gone
    finally:
        for process in started:
            if process.is_running():
                process.kill()


@pytest.mark.parametrize("ignored", [True, False])
def test_hang_up_that_nohup_ignores_stays_ignored(ignored: bool) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        with ended_like_ctrl_c():
            wanted = signal.SIG_IGN if ignored else signal.default_int_handler
            assert signal.getsignal(signal.SIGHUP) is wanted
        assert signal.getsignal(signal.SIGHUP) is (signal.SIG_IGN if ignored else signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGHUP, before)
