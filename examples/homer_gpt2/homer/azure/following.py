"""A job on its way: sending it, following it to its end, and what it registered."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from acpt_trainer import Problem
from homer.azure import errors
from homer.azure.errors import AzureError
from homer.azure.failures import chain, explained
from homer.azure.job import MODEL_NAME
from homer.azure.workspace import WorkspaceConfig

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

_GOES_ON = (
    *("NotStarted", "Queued", "Preparing", "Provisioning", "Starting", "Running"),
    *("CancelRequested", "Finalizing"),
)
"""States after which others come; any other, also one that is not known here, is an end."""
_PAUSE = 5.0
"""Seconds between two looks at a job."""
_LOOKS = 6
"""How often it is looked for the model of a completed job."""


def cancel_line(name: str, config: WorkspaceConfig) -> str:
    """The `az` command that ends a job."""
    return f"az ml job cancel --name {shlex.quote(name)} {config.arguments}"


def send(client: MLClient, config: WorkspaceConfig, job: Any) -> Any:
    """Uploads what the job needs, and submits it; to be called within `explained`.

    Says how to end the job where the answer was lost: it may run then.
    """
    try:
        return client.jobs.create_or_update(job)
    except BaseException as error:
        if not _refused(error):
            line = cancel_line(job.name, config)
            print(f"\nif the job was sent already, this ends it: {line}", flush=True)
        raise


def _refused(error: BaseException) -> bool:
    """Whether it is certain that there is no job."""
    from azure.ai.ml import exceptions as ml
    from azure.core import exceptions as core

    links = list(chain(error))
    lost = (KeyboardInterrupt, core.ServiceRequestError, core.ServiceResponseError)
    if any(isinstance(link, lost) for link in links):
        return False
    answers = [link.status_code for link in links if isinstance(link, core.HttpResponseError)]
    if answers:
        # A conflict may be with what an earlier try, whose answer was lost, has made.
        return all(400 <= (status or 0) < 500 and status not in (408, 409) for status in answers)
    return isinstance(error, ml.MlException | core.ClientAuthenticationError)


def follow(
    client: MLClient,
    config: WorkspaceConfig,
    job: Any,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Shows the job's log until it has ended.

    Args:
        client: The workspace.
        config: Names it, for messages.
        job: What was submitted.
        sleep: Waits.

    Returns:
        The version of the model that it registered.

    Raises:
        AzureError: If the job did not complete, or cannot be followed.
    """
    status = _end_of(client, config, job, sleep)
    if status != "Completed":
        fix = "submit it again; a job on low-priority nodes goes on by itself"
        problem = Problem(f"its status is {status}", job.studio_url, fix)
        raise AzureError([problem], _failed(job), errors.SERVICE)
    headline = f"The job {job.name} completed, and its model cannot be looked up"
    with explained(config, headline):
        for look in range(_LOOKS):
            if look:
                sleep(_PAUSE)
            versions = _versions(client, job)
            if versions:
                return versions[0]
    fix = (
        "look in the Studio whether it was registered; otherwise register it: az ml model create "
        f"--name {MODEL_NAME} --type custom_model --path azureml://jobs/{job.name}/outputs/model "
        f"{config.arguments}"
    )
    what = f"no version of {MODEL_NAME} names this job"
    raise AzureError([Problem(what, job.studio_url, fix)], headline, errors.NOT_FOUND)


def _failed(job: Any) -> str:
    return f"The job {job.name} did not end well"


def _end_of(
    client: MLClient, config: WorkspaceConfig, job: Any, sleep: Callable[[float], None]
) -> str:
    """Follows it; returns its last status."""
    from azure.ai.ml.exceptions import JobException

    line = cancel_line(job.name, config)
    try:
        with explained(config, _failed(job)):
            client.jobs.stream(job.name)
            # The log ends while the output is still registered, and says nothing of a job that
            # was cancelled.
            while (status := _status(client, job)) in _GOES_ON:
                sleep(_PAUSE)
            return status
    except KeyboardInterrupt:
        print(f"\nthe job goes on; this ends it: {line}", flush=True)
        raise
    except AzureError as error:
        if isinstance(error.__cause__, JobException):
            problem = Problem("see its log", job.studio_url, "mend what failed and submit again")
            found = [*error.problems, problem]
            raise AzureError(found, _failed(job), error.status) from error.__cause__
        what = "cannot follow it; the job goes on"
        problem = Problem(what, job.studio_url, f"look at it there; this ends it: {line}")
        headline = f"Cannot follow the job {job.name}"
        found = [*error.problems, problem]
        raise AzureError(found, headline, error.status) from error.__cause__


def _status(client: MLClient, job: Any) -> str:
    status = client.jobs.get(job.name).status
    # An enumeration, or text where the service knows more states than the SDK.
    return str(getattr(status, "value", status))


def _versions(client: MLClient, job: Any) -> list[str]:
    """The versions of the model that this job registered; others may register at the same time."""
    from azure.core.exceptions import ResourceNotFoundError

    try:
        found = list(client.models.list(name=MODEL_NAME))
    except ResourceNotFoundError:
        return []
    return [str(model.version) for model in found if model.job_name == job.name]
