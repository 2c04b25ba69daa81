"""Every failure of a submission, brought about by the emulator: message, status, nothing left."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aml_finetune
import pytest
from deploy_runs import register
from homer.azure import following
from homer.azure.emulator import Fault
from submit_runs import DONE, Submit

_WORKSPACE = "GET .*/workspaces/[^/]+$"
_DENIED = {"x-ms-error-code": "AuthorizationPermissionMismatch"}
_NO_KEYS = {"x-ms-error-code": "KeyBasedAuthenticationNotPermitted"}
_ROWS: dict[str, tuple[Fault, int, list[str]]] = {
    "no-permission": (
        Fault(_WORKSPACE, status=403, code="AuthorizationFailed"),
        4,
        ["AuthorizationFailed", "AzureML Data Scientist"],
    ),
    "token-rejected": (
        Fault(_WORKSPACE, times=9, status=401, code="InvalidAuthenticationToken"),
        3,
        ["az login --use-device-code"],
    ),
    "bad-secret": (
        Fault(
            "POST .*/token",
            status=401,
            body={"error": "invalid_client", "error_description": "AADSTS7000215: bad secret."},
        ),
        3,
        ["AZURE_CLIENT_SECRET", "az login --use-device-code"],
    ),
    "job-refused": (
        Fault("PUT .*/jobs/", status=400, code="UserError", message="Compute is gone."),
        5,
        ["Compute is gone.", "UserError"],
    ),
    "blob-denied": (
        Fault("PUT .*blob.core.*", times=999, status=403, headers=_DENIED, body={}),
        4,
        ["Storage Blob Data Contributor"],
    ),
    "no-keys": (
        Fault("HEAD .*blob.core.*", times=999, status=403, headers=_NO_KEYS),
        4,
        ["refuses keys", "Storage Blob Data Contributor"],
    ),
    "always-busy": (
        Fault(_WORKSPACE, times=99, status=503, headers={"retry-after-ms": "1"}),
        5,
        ["try again in some minutes"],
    ),
}


@pytest.mark.parametrize("row", _ROWS)
def test_failure_is_one_message_and_its_status(submit: Submit, capsys: Any, row: str) -> None:
    fault, status, said = _ROWS[row]
    submit.forget_code()
    before = len(submit.emulator.state.below(f"{submit.emulator.state.workspace_id}/jobs"))
    assert submit(faults=(fault,)) == status
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    assert "1 problem found" in shown.err
    for words in said:
        assert words in shown.err
    assert "job:" not in shown.out
    jobs = submit.emulator.state.below(f"{submit.emulator.state.workspace_id}/jobs")
    assert len(jobs) == before


@pytest.mark.parametrize("status", [429, 503])
def test_busy_service_is_asked_again(submit: Submit, status: int) -> None:
    again = Fault("PUT .*/jobs/", status=status, headers={"retry-after-ms": "1"})
    assert submit(faults=(again,)) == 0
    assert len(submit.sent("PUT", "/jobs/")) == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("subscription_id", "00000000-0000-0000-0000-00000000000f"),
        ("resource_group", "other"),
        ("workspace_name", "other"),
    ],
)
def test_wrong_name_says_which_key(submit: Submit, capsys: Any, key: str, value: str) -> None:
    assert submit(**{key: value}) == 4
    error = capsys.readouterr().err
    assert f"`{key}` in {submit.folder / 'config.json'}" in error
    assert f"'{value}'" in error or f"/{value}'" in error


def fake_az(folder: Path, words: str) -> None:
    script = folder / "az"
    script.write_text(f'#!/bin/sh\necho "{words}" >&2\nexit 1\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(
    "words",
    [
        None,
        "ERROR: Please run 'az login' to setup account.",
        "ERROR: AADSTS70043: The refresh token has expired.",
    ],
    ids=["no-az", "no-login", "expired"],
)
@pytest.mark.parametrize("chain", ["AzureCliCredential", "dev"])
def test_missing_login_names_the_command(
    submit: Submit,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
    words: str | None,
    chain: str,
) -> None:
    binaries = submit.folder / "bin"
    binaries.mkdir()
    if words:
        fake_az(binaries, words)
    monkeypatch.setenv("PATH", f"{binaries}:/usr/bin:/bin" if words else str(binaries))
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", chain)
    monkeypatch.delenv("AZURE_CLIENT_SECRET")
    assert submit() == 3
    error = capsys.readouterr().err
    assert "az login --use-device-code" in error
    assert (words or "Azure CLI not found").removeprefix("ERROR: ")[:20] in error
    assert "Traceback" not in error
    assert submit.sent("GET", "") == []


def test_no_network_is_one_message(
    submit: Submit, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert submit() == 3
    error = capsys.readouterr().err
    assert "1 problem found" in error
    assert "127.0.0.1" in error
    assert "check the network" in error


def test_connection_that_breaks_off_is_one_message(submit: Submit, capsys: Any) -> None:
    assert submit(faults=(Fault("GET .*/computes/", times=99, drop=True),)) == 5
    error = capsys.readouterr().err
    assert "no answer from Azure" in error
    assert "check the network" in error


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (
            {"status": "Failed", "message": "exited with status code 1."},
            "exited with status code 1",
        ),
        ({"status": "Failed", "code": "ImageBuildFailure", "message": "no image"}, "no image"),
        ({"status": "Canceled"}, "its status is Canceled"),
    ],
)
def test_wait_fails_with_the_job(
    submit: Submit, capsys: Any, job: dict[str, str], said: str
) -> None:
    assert submit("--wait", faults=(Fault("PUT .*/jobs/", job=job),)) == 5
    shown = capsys.readouterr()
    assert said in shown.err
    assert "https://ml.azure.com/runs/" in shown.err
    assert "next" not in shown.out


def test_wait_says_when_no_model_was_registered(
    submit: Submit, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_PAUSE", 0.0)
    assert submit("--wait") == 4
    assert "acpt-gpt2" in capsys.readouterr().err


@pytest.mark.parametrize("request_line", ["PUT .*blob.core.*/homer/", "PUT .*/jobs/"])
def test_interrupted_submission_names_the_job_that_may_be_there(
    submit: Submit, capsys: Any, request_line: str
) -> None:
    submit.forget_code()
    submit.emulator.interrupt = lambda: os.kill(os.getpid(), signal.SIGINT)
    assert submit(faults=(Fault(request_line, interrupt=True), DONE)) == 130
    shown = capsys.readouterr()
    assert "az ml job cancel --name homer-gpt2-no_acc-" in shown.out
    assert "interrupted" in shown.err


def test_wait_names_the_version_that_the_job_registered(
    submit: Submit, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aml_finetune, "secrets", SimpleNamespace(token_hex=lambda size: "1"))
    (submit.folder / "model").mkdir()
    for job in ("homer-gpt2-no_acc-1", "another"):
        register(submit.emulator.state, submit.folder / "model", job)
    assert submit("--wait") == 0
    assert "registered: acpt-gpt2, version 1\n" in capsys.readouterr().out


def test_job_whose_answer_is_lost_can_be_ended(submit: Submit, capsys: Any) -> None:
    """It runs, and the SDK's own further tries are not answered either."""
    lost = Fault("PUT .*/jobs/", times=9, drop_after=True, job={"status": "Completed"})
    assert submit(faults=(lost,)) == 5
    shown = capsys.readouterr()
    name = submit.sent("PUT", "/jobs/")[0]["path"].rsplit("/", 1)[1]
    assert f"az ml job cancel --name {name}" in shown.out
    assert "no answer from Azure" in shown.err


def test_interrupted_wait_says_how_to_end_the_job(submit: Submit, capsys: Any) -> None:
    submit.emulator.interrupt = lambda: os.kill(os.getpid(), signal.SIGINT)
    running = Fault("PUT .*/jobs/", job={"status": "Running"})
    assert submit("--wait", faults=(running, Fault("GET .*/details", interrupt=True))) == 130
    assert "az ml job cancel --name" in capsys.readouterr().out


@pytest.mark.long
def test_upload_that_breaks_off_is_one_message(submit: Submit, capsys: Any) -> None:
    """Storage is asked again for more than a minute."""
    submit.forget_code()
    assert submit(faults=(Fault("https://[^/]*blob.core", times=9999, drop=True),)) == 5
    assert "no answer from Azure" in capsys.readouterr().err
    assert submit.sent("PUT", "/jobs/") == []
