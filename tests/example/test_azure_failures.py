"""Errors of the SDK that no request here brings about, as messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from homer.azure import errors
from homer.azure.failures import explain, explained, first_line
from homer.azure.workspace import WorkspaceConfig

core = pytest.importorskip("azure.core.exceptions")
ml = pytest.importorskip("azure.ai.ml.exceptions")

CONFIG = WorkspaceConfig("sub-id", "group", "place", Path("config.json"))
_QUOTA = "Not enough quota available for Standard_F4s_v2 in SubscriptionId x. Additional needed: 8"
_JOB = json.dumps({"error": {"code": "UserError", "message": "out of memory"}})


def response_error(status: int, code: str, message: str) -> Exception:
    """As azure-core makes one of ARM's answer; a failed long operation comes with status 200."""
    made = core.HttpResponseError(message=f"({code}) {message}\nCode: {code}")
    made.status_code = status
    made.error = core.ODataV4Format({"code": code, "message": message})
    return made


def validation_error(kind: Any, message: str) -> Exception:
    return ml.ValidationException(
        message=message, no_personal_data_message=message, error_type=kind, target=None
    )


_CASES: dict[str, tuple[Exception, int, list[str]]] = {
    "quota-operation": (response_error(200, "OutOfQuota", "no cores"), 5, ["Quota page"]),
    "quota-at-once": (
        response_error(400, "BadRequest", f"Details: {_QUOTA}"),
        5,
        ["not enough quota for Standard_F4s_v2", "Quota page"],
    ),
    "bad-argument": (response_error(200, "BadArgument", "wrong size"), 5, ["wrong size"]),
    "not-registered": (
        response_error(200, "SubscriptionNotRegistered", "no"),
        5,
        ["az provider register", "Microsoft.PolicyInsights"],
    ),
    "denied": (response_error(403, "SomethingElse", "no"), 4, ["role AzureML Data Scientist"]),
    "absent": (response_error(404, "SomethingElse", "no"), 4, ["check the name"]),
    "throttled": (response_error(429, "TooManyRequests", "no"), 5, ["in some minutes"]),
    "no-model": (
        validation_error(ml.ValidationErrorType.RESOURCE_NOT_FOUND, "Asset acpt-gpt2 is not there"),
        4,
        ["Asset acpt-gpt2 is not there"],
    ),
    "coloured": (
        ml.MlException("\x1b[31mat least 3\x1b[39m\nand more", "no"),
        5,
        ["1. at least 3\n"],
    ),
    "job": (
        ml.JobException(
            f"Exception : \n {json.dumps({'error': {'message': 'out of memory'}})}", ""
        ),
        5,
        ["the job failed: out of memory"],
    ),
}


@pytest.mark.parametrize("case", _CASES)
def test_error_becomes_one_message(case: str) -> None:
    error, status, said = _CASES[case]
    made = explain(error, CONFIG, "Cannot do it")
    assert made is not None
    assert made.status == status
    assert str(made).startswith("Cannot do it: 1 problem found.")
    for words in said:
        assert words in str(made)
    for line in str(made).splitlines():
        assert "{" not in line


def test_service_error_behind_another_one_is_found() -> None:
    def raise_both() -> None:
        try:
            raise response_error(403, "AuthorizationPermissionMismatch", "no")
        except core.HttpResponseError as error:
            raise ml.AssetException("upload failed", "no", target=None) from error

    with pytest.raises(errors.AzureError) as caught, explained(CONFIG, "Cannot upload"):
        raise_both()
    assert caught.value.status == errors.NOT_FOUND
    assert "Storage Blob Data Contributor" in str(caught.value)


def test_network_error_behind_another_one_is_found() -> None:
    try:
        try:
            raise core.ServiceRequestError("connection refused")
        except core.ServiceRequestError as error:
            raise ml.AssetException("Error with code: ...", "no", target=None) from error
    except ml.AssetException as error:
        made = explain(error, CONFIG, "Cannot upload")
    assert made is not None
    assert made.status == errors.SERVICE
    assert "no answer from Azure: connection refused" in str(made)


def test_our_own_defects_pass_through() -> None:
    with pytest.raises(ZeroDivisionError), explained(CONFIG, "Cannot"):
        _ = 1 / 0


def test_long_message_is_shortened() -> None:
    assert len(first_line(Exception("x" * 5000))) < 600
