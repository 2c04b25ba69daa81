"""Submitting with the real SDK: what is sent, and every failure's message and exit status."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aml_finetune
import pytest
from finetune_runs import Workspace
from homer.azure import staging
from homer.azure.emulator import Emulator, Fault
from homer.azure.workspace import KEYS

GOLDEN = Path(__file__).parent / "golden" / "aml_submit.json"
DONE = Fault("PUT .*/jobs/", job={"status": "Completed"})
"""Jobs are not run here: that is test_azure_emulated.py's."""
_IDS = (
    ("[0-9a-f]{64}", "HASH"),
    ("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "GUID"),
    ("(?<=/codes-)[0-9a-f]{8}", "ID"),
    ("(?<=/jobs/)[^/]+$", "JOB"),
)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with Emulator(tmp_path_factory.mktemp("state")) as made:
        yield made


@dataclasses.dataclass
class Submit:
    """Calls the script in this process, against the emulator."""

    emulator: Emulator
    folder: Path

    def __call__(self, *options: str, faults: tuple[Fault, ...] = (), **config: str) -> int:
        # Faults are used up; a copy is left to the next caller.
        self.emulator.faults[:] = [dataclasses.replace(fault) for fault in faults] + [
            dataclasses.replace(DONE)
        ]
        self.emulator.requests.clear()
        names = vars(self.emulator.workspace) | config
        path = self.folder / "config.json"
        path.write_text(json.dumps({key: names[key] for key in KEYS}))
        given = ["--ws_config", str(path), "--compute", "gpu8", "--nproc_per_node", "8"]
        try:
            return aml_finetune.main([*given, *options])
        except SystemExit as stop:
            return int(stop.code or 0)

    def forget_code(self) -> None:
        """Makes the next call upload the code again."""
        self.emulator.state.delete(f"{self.emulator.state.workspace_id}/codes")

    def sent(self, method: str, pattern: str) -> list[dict[str, Any]]:
        """Requests of the last call."""
        return [
            r
            for r in self.emulator.requests
            if r.get("method") == method and re.search(pattern, r["path"])
        ]


@pytest.fixture
def submit(
    emulator: Emulator, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Submit:
    monkeypatch.setattr(staging, "DATA", workspace.folder)
    for name, value in emulator.environment().items():
        monkeypatch.setenv(name, value)
    # The SDK notes the branch and commit of the current folder.
    monkeypatch.chdir(tmp_path)
    # Leaves out the address that only virtual machines of Azure have.
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    return Submit(emulator, tmp_path)


def normal(value: Any) -> Any:
    """A request without what differs between two runs."""
    if isinstance(value, dict):
        # The hash is of the whole package: it would change with every commit.
        return {name: normal(part) for name, part in value.items()}
    if isinstance(value, list):
        return [normal(part) for part in value]
    if isinstance(value, str):
        for pattern, name in _IDS:
            value = re.sub(pattern, name, value)
    return value


def test_requests_are_the_golden_ones(submit: Submit, capsys: Any) -> None:
    """`UPDATE_GOLDEN=1 pytest ...` writes the file anew; look at the diff."""
    submit.forget_code()
    options = ("--run_config", "ds_ort", "--nnode", "2", "--max_steps", "7", "--batch_size", "3")
    assert submit(*options) == 0
    made = [
        {"request": f"{r['method']} {r['path']}", "body": r.get("json")}
        for r in submit.emulator.requests
        if r["host"] == "management.azure.com"
    ]
    made = normal(made)
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(made, indent=1) + "\n")
    assert made == json.loads(GOLDEN.read_text())
    assert submit.emulator.refused == []
    shown = capsys.readouterr().out
    name = submit.sent("PUT", "/jobs/")[0]["path"].rsplit("/", 1)[1]
    assert f"job: {name}" in shown
    assert f"studio: https://ml.azure.com/runs/{name}" in shown
    assert "python aml_deploy.py --ws_config" in shown


def test_nothing_is_sent_twice(submit: Submit) -> None:
    """The same files are found by their hash, and the image by its content."""
    assert submit() == 0
    assert submit() == 0
    assert submit.sent("PUT", "/acpt_trainer/") == []
    assert submit.sent("PUT", "/jobs/")


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (("--compute", "nope"), 4, ["no such compute", "gpu8 (Standard_ND96asr_v4)", "--max-inst"]),
        (("--compute", "cpu"), 2, ["Standard_DS3_v2 has no GPU"]),
        (("--compute", "gpu4"), 2, ["8 processes a node", "--nproc_per_node 4"]),
        (("--nnode", "9"), 2, ["9 nodes", "at most 4", "--nnode 4"]),
        (("--compute", "kubernetes"), 2, ["kubernetes, no training cluster"]),
        (
            ("--compute", "notebook", "--nnode", "3", "--batch_size", "0"),
            2,
            ["3 problems found", "at most 1", "--nproc_per_node 1", "--batch_size"],
        ),
    ],
)
def test_compute_that_does_not_fit_is_said_before_an_upload(
    submit: Submit, capsys: Any, options: tuple[str, ...], status: int, said: list[str]
) -> None:
    assert submit(*options) == status
    error = capsys.readouterr().err
    for words in said:
        assert words in error
    assert submit.sent("PUT", "") == []
    assert submit.sent("POST", "startPendingUpload") == []


def test_local_and_azures_problems_come_in_one_message(
    submit: Submit, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "DATA", submit.folder / "nothing")
    assert submit("--compute", "nope", "--max_steps", "0") == 4
    error = capsys.readouterr().err
    assert "4 problems found" in error
    for words in ("no such compute", "--max_steps", "training_raw.txt", "validation_raw.txt"):
        assert words in error


def test_sizes_that_may_not_be_listed_are_no_obstacle(submit: Submit, capsys: Any) -> None:
    denied = Fault("GET .*/vmSizes", status=403, code="AuthorizationFailed", times=2)
    assert submit(faults=(denied,)) == 0
    assert "its number of GPUs is not checked" in capsys.readouterr().out
    assert submit("--compute", "cpu", faults=(denied,)) == 2
    assert "has no GPU" in capsys.readouterr().err


def test_retired_gpus_are_warned_about(submit: Submit, capsys: Any) -> None:
    assert submit("--compute", "k80", "--nproc_per_node", "1") == 0
    assert "note: Standard_NC6 has K80 GPUs, which Azure retired" in capsys.readouterr().out


def test_idle_gpus_are_said(submit: Submit, capsys: Any) -> None:
    assert submit("--nproc_per_node", "6") == 0
    assert "note: 2 of the 8 GPUs" in capsys.readouterr().out


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


def test_wait_says_when_no_model_was_registered(submit: Submit, capsys: Any) -> None:
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
