"""What can go wrong while deploying: the message, the exit status, and nothing is left behind."""

from __future__ import annotations

import functools
import json
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aml_deploy
import homer.azure.emulator.endpoints as endpoints
import homer.azure.endpoints as waiting
import pytest
from deploy_runs import AZ_DELETE, Deploys, Never, operation
from homer.azure.emulator import Fault
from homer.azure.emulator.serving import Server
from homer.azure.scoring import ScoringError, ask

pytestmark = pytest.mark.slow
_BLUE = "PUT .*/deployments/blue$"
_ENDPOINT = r"PUT .*/onlineEndpoints/[^/]+$"


_QUOTA_TEXT = (
    "InferencingClientCreateDeploymentFailed: Not enough quota available for Standard_F4s_v2 in "
    "SubscriptionId x. Current usage/limit: 0/6. Additional needed: 8"
)
_ROWS = {
    "credentials": (
        Fault("POST .*/oauth2/v2.0/token", status=401, times=9, body={"error": "invalid_client"}),
        3,
        "az login --use-device-code",
    ),
    "workspace": (
        Fault("GET .*/workspaces/[^/]+$", status=404, code="ResourceNotFound"),
        4,
        "az ml workspace list",
    ),
    "endpoint denied": (
        Fault(_ENDPOINT, status=403, code="AuthorizationFailed"),
        4,
        "for the role AzureML Data Scientist",
    ),
    "endpoint fails": (operation(_ENDPOINT, "BadArgument"), 5, "it said so (BadArgument)"),
    "network": (
        Fault("PUT .*/environments/", drop=True, times=9),
        5,
        "check the network",
    ),
    "provider": (operation(_ENDPOINT, "SubscriptionNotRegistered"), 5, "az provider register"),
    "blob denied": (
        Fault(
            r"PUT .*\.blob\..*/score\.py",
            status=403,
            times=9,
            body=b"",
            headers={"x-ms-error-code": "AuthorizationPermissionMismatch"},
        ),
        4,
        "Storage Blob Data Contributor",
    ),
    "quota": (operation(_BLUE, "OutOfQuota"), 5, "ask for more quota"),
    "quota at once": (
        Fault(_BLUE, status=400, code="BadRequest", message=_QUOTA_TEXT),
        5,
        "not enough quota for Standard_F4s_v2",
    ),
    "deployment fails": (operation(_BLUE, "ResourceNotReady"), 5, "it said so (ResourceNotReady)"),
    "traffic fails": (
        Fault(_ENDPOINT, skip=1, operation={"code": "BadArgument", "message": "no traffic"}),
        5,
        "no traffic",
    ),
    "keys denied": (Fault("POST .*/listKeys", status=403, code="AuthorizationFailed"), 4, "role"),
    "model fails": (
        Fault(
            "POST .*/score",
            status=424,
            body={"error": {"code": "internal", "message": "the answer failed"}},
            headers={"ms-azureml-model-error-statuscode": "500"},
        ),
        5,
        "status 424 (the model's server: 500): the answer failed",
    ),
    "key refused": (Fault("POST .*/score", status=401), 5, "status 401: injected"),
    "redirection": (
        Fault("POST .*/score", status=302, headers={"Location": "https://example.com/score"}),
        5,
        "status 302",
    ),
    "no answer": (Fault("POST .*/score", status=200, body={"hello": 1}), 5, "no answer of score"),
}


# The SDK waits for ten seconds and more before it gives a network up.
_SLOW = {"network"}


@pytest.mark.parametrize(
    "row", [pytest.param(r, marks=[pytest.mark.long] if r in _SLOW else []) for r in sorted(_ROWS)]
)
def test_failure_is_one_message_and_leaves_nothing(deploys: Deploys, row: str) -> None:
    fault, wanted, said = _ROWS[row]
    status, printed = deploys(faults=(fault,))
    assert (status, deploys.endpoints) == (wanted, []), printed
    assert said in printed
    assert "Traceback" not in printed
    made = deploys.asked("PUT", "/deployments/blue") or [
        r for r in deploys.emulator.requests if re.search(_ENDPOINT, f"PUT {r.get('path')}")
    ]
    if made:
        assert "is deleted" in printed
    assert deploys.emulator.refused == []


def test_without_a_model_train_first(deploys: Deploys) -> None:
    deploys.emulator.state.resources.clear()
    status, printed = deploys()
    assert status == 4
    assert "train first: python aml_finetune.py" in printed
    assert not deploys.asked("PUT", "")


def test_endpoint_that_is_there_is_not_touched(deploys: Deploys) -> None:
    assert deploys("--endpoint_name", "taken-name")[0] == 0
    status, printed = deploys("--endpoint_name", "taken-name")
    assert (status, deploys.endpoints) == (2, ["taken-name"])
    assert "is there already" in printed


def test_container_that_crashes_shows_its_log(
    deploys: Deploys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "Server", Server)
    status, printed = deploys()
    assert (status, deploys.endpoints) == (5, [])
    assert "no such weights" in printed.partition("the log of the deployment ends with")[2]


def test_deployment_that_takes_too_long_is_deleted(
    deploys: Deploys, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Never] = []

    class Late(Never):
        """Hours have passed as soon as it is started."""

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    clock = SimpleNamespace(
        monotonic=lambda: time.monotonic() + (7200 if made else 0), sleep=time.sleep
    )
    monkeypatch.setattr(waiting, "time", clock)
    monkeypatch.setattr(endpoints, "Server", Late)
    status, printed = deploys()
    assert (status, deploys.endpoints) == (5, [])
    assert "the deployment is not done in time" in printed
    assert "--timeout" in printed


def test_endpoint_that_is_not_ready_is_asked_again(
    deploys: Deploys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aml_deploy, "ask", functools.partial(ask, sleep=lambda seconds: None))
    faults = (Fault("POST .*/score", drop=True), Fault("POST .*/score", status=503, times=4))
    status, printed = deploys(faults=faults)
    assert (status, len(deploys.endpoints)) == (0, 1), printed
    assert "answer: The king arose and spoke" in printed
    sent = [r for r in deploys.emulator.requests if r.get("host", "").startswith("acpt-gpt2-")]
    assert [r["path"] for r in sent] == ["/score"] * 6
    # Not once in the clear, which the emulator refuses.
    assert deploys.emulator.refused == []


def test_kept_deployment_is_left_with_the_line_that_deletes_it(deploys: Deploys) -> None:
    status, printed = deploys("--keep", faults=(operation(_BLUE, "OutOfQuota"),))
    assert status == 5
    assert re.search(AZ_DELETE.format(deploys.endpoints[0]), printed)


def test_deletion_that_fails_prints_the_line(deploys: Deploys) -> None:
    faults = (operation(_BLUE, "OutOfQuota", "too many"), operation("DELETE", "InternalError"))
    status, printed = deploys(faults=faults)
    assert (status, len(deploys.endpoints)) == (5, 1)
    assert "too many" in printed
    assert "could not be deleted" in printed
    assert re.search(AZ_DELETE.format(deploys.endpoints[0]), printed)


def test_deletion_waits_for_what_is_still_being_made(deploys: Deploys) -> None:
    conflict = Fault("DELETE", status=409, code="Conflict", times=3)
    status, printed = deploys(faults=(operation(_BLUE, "OutOfQuota"), conflict))
    assert (status, deploys.endpoints) == (5, []), printed
    assert conflict.times == 0


_STEPS = {
    "login": ("POST .*/oauth2/v2.0/token", 0),
    "workspace": ("GET .*/workspaces/[^/]+$", 0),
    "model": ("GET .*/models/acpt-gpt2/versions", 0),
    "endpoints": ("GET .*/onlineEndpoints$", 0),
    "endpoint": (_ENDPOINT, 0),
    "endpoint's operation": ("GET .*/operations/", 0),
    "code": ("POST .*/startPendingUpload", 0),
    "upload": (r"PUT .*\.blob\..*/score\.py", 0),
    "environment": ("PUT .*/environments/", 0),
    "deployment": (_BLUE, 0),
    "deployment's operation": ("GET .*/operations/", 1),
    "traffic": (_ENDPOINT, 1),
    "key": ("POST .*/listKeys", 0),
    "prompt": ("POST .*/score", 0),
}


@pytest.mark.parametrize("step", sorted(_STEPS))
def test_ctrl_c_leaves_nothing(deploys: Deploys, step: str) -> None:
    match, skip = _STEPS[step]
    fault = Fault(match, skip=skip, interrupt=True)
    status, printed = deploys(faults=(fault,))
    assert fault.times == 0, "the step was not reached"
    assert (status, deploys.endpoints) == (130, []), printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("words", ["making the endpoint", "deploying;"])
def test_deletion_needs_nobody_who_reads(
    deploys: Deploys, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    gone = []
    monkeypatch.setattr("sys.stdout", sys.stdout)  # it is changed, and put back afterwards

    def say(text: str) -> None:
        # As a pipe whose reader has ended: from here on, every word fails.
        if gone or words in text:
            gone.append(text)
            raise BrokenPipeError

    monkeypatch.setattr("aml_deploy.say", say)
    with pytest.raises(BrokenPipeError):
        deploys()
    assert deploys.endpoints == []


def test_second_ctrl_c_prints_the_line(deploys: Deploys) -> None:
    first = Fault(_BLUE, interrupt=True)
    second = Fault("DELETE", status=500, times=9, interrupt=True)
    status, printed = deploys(faults=(first, second))
    assert (status, len(deploys.endpoints)) == (130, 1)
    assert re.search(AZ_DELETE.format(deploys.endpoints[0]), printed)


def test_ctrl_c_while_the_log_is_read_does_not_stop_the_deletion(deploys: Deploys) -> None:
    faults = (operation(_BLUE, "OutOfQuota"), Fault("POST .*/getLogs", interrupt=True))
    status, printed = deploys(faults=faults)
    assert (status, deploys.endpoints) == (5, []), printed


def test_gpu_is_refused_where_the_image_could_not_use_it(deploys: Deploys) -> None:
    status, printed = deploys("--instance_type", "Standard_NC6s_v3")
    assert status == 2
    assert "environment/serving.yaml" in printed


def test_mistakes_are_found_together_before_azure(deploys: Deploys, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps({"subscription_id": "x"}))
    options = ["--endpoint_name", "1", "--instance_type", "big", "--timeout", "0"]
    options += ["--prompt", ""]
    status, printed = deploys("--ws_config", str(wrong), *options)
    assert status == 2
    assert "7 problems found" in printed
    assert deploys.emulator.requests == []


def test_ask_sends_no_key_in_the_clear() -> None:
    with pytest.raises(ScoringError, match="not https"):
        ask("http://localhost:9/score", "a", "secret")


def test_ask_gives_up_when_patience_ends() -> None:
    waits: list[float] = []
    with pytest.raises(ScoringError, match="no answer"):
        ask("http://127.0.0.1:9/score", "a", patience=10, sleep=waits.append)
    assert waits == [1.0, 2.0, 4.0, 8.0]
