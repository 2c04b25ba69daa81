"""Errors that a user can act on, and what a script prints of them."""

from __future__ import annotations

import errno
import os

import pytest

from acpt_trainer import errors
from acpt_trainer.errors import (
    AcptError,
    ConfigurationError,
    GraphBuildError,
    NotEngagedError,
    Problem,
    raise_if_any,
    reported_errors,
)

TWO = (
    Problem("the kettle is empty", "kettle=None", "fill it"),
    Problem("there is no tea", "--tea", "give one of: green, black"),
)


def test_problem_says_what_where_and_fix() -> None:
    assert str(TWO[0]).splitlines() == [
        "the kettle is empty",
        "    where: kettle=None",
        "    fix:   fill it",
    ]


def test_configuration_error_lists_all_problems_numbered() -> None:
    error = ConfigurationError(TWO, "Cannot make tea")
    assert str(error).splitlines() == [
        "Cannot make tea: 2 problems found.",
        "1. the kettle is empty",
        "    where: kettle=None",
        "    fix:   fill it",
        "2. there is no tea",
        "    where: --tea",
        "    fix:   give one of: green, black",
    ]
    assert error.problems == TWO
    assert "1 problem found." in str(ConfigurationError(TWO[:1]))


def test_configuration_error_needs_a_problem() -> None:
    with pytest.raises(ValueError, match="at least one problem"):
        ConfigurationError([])


def test_raise_if_any_raises_once_with_all() -> None:
    raise_if_any([])
    raise_if_any(iter(()))
    with pytest.raises(ConfigurationError) as caught:
        raise_if_any(iter(TWO), "Cannot make tea")
    assert caught.value.problems == TWO
    assert str(caught.value).startswith("Cannot make tea: 2 problems")


@pytest.mark.parametrize(
    "error",
    [ConfigurationError(TWO), NotEngagedError("it did not run"), GraphBuildError("no graph")],
    ids=lambda e: type(e).__name__,
)
def test_reported_errors_prints_message_and_exits_2(
    error: AcptError, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop, reported_errors():
        raise error
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert stop.value.__cause__ is error
    assert err == f"error: {error}\n"
    assert out == ""


def test_reported_errors_turns_interrupt_into_130(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, reported_errors():
        raise KeyboardInterrupt
    assert stop.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


class SafetensorError(Exception):
    """As safetensors raises it: its own type, with the system's words."""


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "model.bin"),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
        SafetensorError(
            'Io(Os { code: 28, kind: StorageFull, message: "No space left on device" })'
        ),
        RuntimeError("unable to write: No space left on device (28)"),
        RuntimeError(
            "[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"
            " PytorchStreamWriter failed writing file data/0"
        ),
        RuntimeError("basic_ios::clear: iostream error"),
    ],
    ids=["no-space", "quota", "safetensors", "torch", "torch-writer", "torch-stream"],
)
def test_reported_errors_explains_a_full_disk(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop, reported_errors():
        raise error
    err = capsys.readouterr().err
    assert stop.value.code == 2
    assert err.startswith("error: No space left on the disk")
    assert "fix:   free some space" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, os.strerror(errno.EACCES)),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("No space left on device"),
        SafetensorError("InvalidHeader"),
        ZeroDivisionError(),
    ],
    ids=lambda e: type(e).__name__,
)
def test_reported_errors_lets_defects_pass(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(type(error)) as caught, reported_errors():
        raise error
    assert caught.value is error
    assert capsys.readouterr().err == ""


def test_reported_errors_leaves_success_and_exit_alone() -> None:
    with reported_errors():
        done = True
    assert done
    with pytest.raises(SystemExit) as stop, reported_errors():
        raise SystemExit(7)
    assert stop.value.code == 7


def test_reported_errors_in_a_script_shows_no_stack_trace(run_python) -> None:  # type: ignore[no-untyped-def]
    done = run_python(
        "-c",
        "from acpt_trainer import get_strategy, reported_errors\n"
        "with reported_errors():\n"
        "    get_strategy('dss')\n",
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: Cannot look up a strategy: 1 problem found.")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(("rank", "waited"), [(None, []), ("0", []), ("1", [20.0])])
def test_reported_errors_leaves_a_configuration_error_to_the_first_process(
    rank: str | None,
    waited: list[float],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    slept: list[float] = []
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(errors.time, "sleep", slept.append)
    with pytest.raises(SystemExit) as stop, errors.reported_errors():
        errors.raise_if_any([errors.Problem("it leaks", "the kettle", "mend it")])
    assert stop.value.code == 2
    assert slept == waited
    # The launcher ends it while it waits; when it does not, nobody else had this fault.
    assert "it leaks" in capsys.readouterr().err


@pytest.mark.parametrize("rank", [None, "0", "1", "7"])
@pytest.mark.parametrize(
    "error", [NotEngagedError("it did not run"), GraphBuildError("no graph")], ids=repr
)
def test_reported_errors_of_training_are_said_at_once_by_every_process(
    error: AcptError,
    rank: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(errors.time, "sleep", lambda seconds: pytest.fail("it waited"))
    with pytest.raises(SystemExit) as stop, reported_errors():
        raise error
    assert stop.value.code == 2
    assert capsys.readouterr().err == f"error: {error}\n"


@pytest.mark.parametrize("cause", [True, False])
def test_reported_errors_explains_a_full_disk_behind_another_error(
    cause: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    error = RuntimeError("the writer failed")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    error.__cause__, error.__context__ = (full, None) if cause else (None, full)
    with pytest.raises(SystemExit) as stop, reported_errors():
        raise error
    assert stop.value.code == 2
    assert "No space left on the disk: the writer failed" in capsys.readouterr().err
