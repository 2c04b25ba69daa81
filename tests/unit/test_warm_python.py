"""The forks that other tests run scripts in are as processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from warm_python import WarmPython


@pytest.fixture(scope="module")
def python() -> Iterator[WarmPython]:
    made = WarmPython(dict(os.environ), imports=["fractions"])
    yield made
    made.stop()


def test_code_has_its_arguments_environment_and_folder(python: WarmPython, tmp_path: Path) -> None:
    code = "import os, sys; print(sys.argv, os.getcwd(), sorted(os.environ), __name__)"
    done = python(["-c", code, "tea"], env={"KETTLE": "1"}, cwd=tmp_path)
    assert done.stdout == f"['-c', 'tea'] {tmp_path} ['KETTLE'] __main__\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_script_finds_its_neighbours_and_what_was_imported(
    python: WarmPython, tmp_path: Path
) -> None:
    (tmp_path / "kettle.py").write_text("HEAT = 100")
    script = tmp_path / "boil.py"
    script.write_text(
        "import sys; print('fractions' in sys.modules, 'acpt_trainer' in sys.modules)\n"
        "import kettle; print(kettle.HEAT, __file__, sys.stdin.read() == '')"
    )
    done = python([str(script)], env=os.environ)
    assert done.stdout == f"True False\n100 {script} True\n"


def test_path_is_that_of_a_process_of_its_own(python: WarmPython, tmp_path: Path) -> None:
    command = ["-c", "import sys; print(sys.path)"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    cold = subprocess.run(
        [sys.executable, *command], env=env, capture_output=True, text=True, check=True
    )
    assert python(command, env=env).stdout == cold.stdout


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('cold')", 1, "cold\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("import os; os.abort()", -signal.SIGABRT, ""),
    ],
    ids=["status", "words", "error", "crash"],
)
def test_end_is_that_of_a_process_of_its_own(
    python: WarmPython, code: str, status: int, said: str
) -> None:
    done = python(["-c", code], env=os.environ)
    assert done.returncode == status
    assert done.stderr.endswith(said)


def test_what_runs_too_long_is_ended(python: WarmPython) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        python(["-c", "import time; time.sleep(60)"], env=os.environ, timeout=0.5)
    assert python(["-c", "print('on')"], env=os.environ).stdout == "on\n"


def test_interrupted_run_leaves_its_answer_to_nobody(python: WarmPython) -> None:
    def interrupted(number: int, frame: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGUSR1, interrupted)
    try:
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        with pytest.raises(InterruptedError):
            python(["-c", "import time; time.sleep(60)"], env=os.environ)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert python(["-c", "print('on')"], env=os.environ).stdout == "on\n"


def test_several_processes_know_their_places(python: WarmPython) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    code = f"import os; print(*(os.environ[name] for name in {names}))"
    done = python(["-c", code], env=os.environ, processes=2)
    assert sorted(done.stdout.splitlines()) == ["0 0 2 2", "1 1 2 2"]


def test_several_processes_write_whole_lines() -> None:
    unbuffered = WarmPython({**os.environ, "PYTHONUNBUFFERED": "1"}, imports=[])
    code = "for _ in range(500): print(*range(9))"
    done = unbuffered(["-c", code], env=os.environ, processes=2)
    unbuffered.stop()
    assert set(done.stdout.splitlines()) == {"0 1 2 3 4 5 6 7 8"}


def test_process_that_fails_ends_the_others(python: WarmPython) -> None:
    code = "import os, time; os.environ['RANK'] == '1' and exit(3); time.sleep(60)"
    done = python(["-c", code], env=os.environ, processes=2, timeout=30)
    assert done.returncode == 3
