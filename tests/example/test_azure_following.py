"""Sending and following a job, with a client that answers what a test says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from homer.azure.errors import AzureError
from homer.azure.failures import explained
from homer.azure.following import follow, send
from homer.azure.workspace import WorkspaceConfig

core = pytest.importorskip("azure.core.exceptions")
ml = pytest.importorskip("azure.ai.ml.exceptions")

CONFIG = WorkspaceConfig("sub-id", "my group", "place", Path("config.json"))
JOB = SimpleNamespace(name="homer-1", studio_url="https://ml.azure.com/runs/homer-1")
_CANCEL = "az ml job cancel --name homer-1 --subscription sub-id --resource-group 'my group'"


def response(status: int | None) -> Exception:
    made = core.HttpResponseError(message="no")
    made.status_code = status
    return made


class Client:
    """A workspace: each look at the job takes the next status, an error is raised."""

    def __init__(self, *statuses: str, stream: Exception | None = None, models: Any = ()) -> None:
        self.jobs = self
        self.statuses, self.error, self.waits = list(statuses), stream, 0
        self.models = SimpleNamespace(list=lambda name: models)

    def stream(self, name: str) -> None:
        if self.error is not None:
            raise self.error

    def get(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(status=self.statuses.pop(0))

    def create_or_update(self, job: Any) -> Any:
        raise self.error

    def follow(self) -> str:
        def sleep(seconds: float) -> None:
            self.waits += 1

        return follow(self, CONFIG, JOB, sleep)


def model(version: str, job: str | None) -> SimpleNamespace:
    return SimpleNamespace(version=version, job_name=job)


def test_job_is_followed_until_its_output_is_registered() -> None:
    models = [model("8", "another"), model("7", "homer-1"), model("6", None)]
    client = Client("Running", "Finalizing", "Completed", models=models)
    assert client.follow() == "7"
    assert client.waits == 2


def test_model_of_another_job_is_not_said_to_be_ours() -> None:
    client = Client("Completed", models=[model("8", "another")])
    with pytest.raises(AzureError, match="no version of acpt-gpt2 names this job") as caught:
        client.follow()
    assert caught.value.status == 4
    assert "azureml://jobs/homer-1/outputs/model" in str(caught.value)


@pytest.mark.parametrize("status", ["Failed", "Canceled", "NotResponding", "SomethingNew"])
def test_any_other_end_is_a_failure(status: str) -> None:
    with pytest.raises(AzureError, match=f"its status is {status}") as caught:
        Client("CancelRequested", status).follow()
    assert caught.value.status == 5


@pytest.mark.parametrize("error", [core.ServiceRequestError("network"), response(503)])
def test_error_while_following_is_no_failure_of_the_job(error: Exception) -> None:
    with pytest.raises(AzureError) as caught:
        Client(stream=error).follow()
    said = str(caught.value)
    assert "cannot follow it; the job goes on" in said
    assert JOB.studio_url in said
    assert _CANCEL in said
    assert "did not end well" not in said
    assert "submit again" not in said


def test_failed_job_is_said_to_have_failed() -> None:
    with pytest.raises(AzureError) as caught:
        Client(stream=ml.JobException("it broke", "")).follow()
    assert "the job failed: it broke" in str(caught.value)
    assert "goes on" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (core.ServiceRequestError("network"), True),
        (core.ServiceResponseError("network"), True),
        (response(500), True),
        (response(200), True),
        (response(409), True),
        (AttributeError("an answer that the SDK cannot read"), True),
        (KeyboardInterrupt(), True),
        (response(400), False),
        (response(403), False),
        (ml.MlException("no such file", "no"), False),
    ],
    ids=lambda value: str(value) or type(value).__name__,
)
def test_cancel_line_is_printed_when_the_answer_is_lost(
    error: BaseException, lost: bool, capsys: Any
) -> None:
    with pytest.raises((AzureError, type(error))), explained(CONFIG, "Cannot submit"):
        send(Client(stream=error), CONFIG, JOB)
    assert (_CANCEL in capsys.readouterr().out) == lost
