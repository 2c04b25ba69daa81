"""Every failure of the Azure SDK as one plain message: what, where, the way out, an exit status."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from acpt_trainer import Problem
from homer.azure import errors
from homer.azure.errors import AzureError
from homer.azure.workspace import WorkspaceConfig

LOGIN = (
    "log in with `az login --use-device-code` (add `--tenant TENANT` where you have several), or "
    "set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET of a service principal that holds"
)
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_QUOTA = re.compile(r"Not enough quota available for (\S+)")
_TOO_MUCH_TEXT = 500


@dataclass(frozen=True)
class _Row:
    """What one error code of the service means. `fix` and `where` may name workspace fields."""

    status: int
    where: str
    fix: str


_ROLE = "ask an owner of {workspace_name} for the role "
_QUOTA_FIX = (
    "take a smaller or another size, delete what is not used, or ask for more quota on the "
    "workspace's Quota page (a deployment needs a fifth more than it uses)"
)
_CODES = {
    "SubscriptionNotFound": _Row(
        errors.NOT_FOUND,
        "`subscription_id` in {path}",
        "mend it (`az account list` shows the ids), or log in as one who sees this subscription",
    ),
    "ResourceGroupNotFound": _Row(
        errors.NOT_FOUND,
        "`resource_group` in {path}",
        "mend it: `az group list --subscription {subscription_id}` shows the groups",
    ),
    "ResourceNotFound": _Row(
        errors.NOT_FOUND,
        "`workspace_name` in {path}",
        "mend it: `az ml workspace list --subscription {subscription_id} "
        "--resource-group {quoted_group}` shows the workspaces",
    ),
    "AuthorizationFailed": _Row(
        errors.NOT_FOUND,
        "workspace {workspace_name} in {resource_group}",
        _ROLE + "AzureML Data Scientist",
    ),
    "AuthorizationPermissionMismatch": _Row(
        errors.NOT_FOUND,
        "storage account of workspace {workspace_name}",
        _ROLE + "Storage Blob Data Contributor on its storage account",
    ),
    "KeyBasedAuthenticationNotPermitted": _Row(
        errors.NOT_FOUND,
        "storage account of workspace {workspace_name}",
        "let the workspace's datastore use identities (its storage account refuses keys), and "
        + _ROLE
        + "Storage Blob Data Contributor on its storage account",
    ),
    "OutOfQuota": _Row(errors.SERVICE, "quota of subscription {subscription_id}", _QUOTA_FIX),
    "SubscriptionNotRegistered": _Row(
        errors.SERVICE,
        "subscription {subscription_id}",
        "register the resource providers once: `az provider register --namespace NAME` for "
        "Microsoft.MachineLearningServices, Microsoft.PolicyInsights and Microsoft.Cdn",
    ),
    "BadArgument": _Row(
        errors.SERVICE, "workspace {workspace_name}", "mend what the message names, and try again"
    ),
}
_DENIED = _Row(
    errors.NOT_FOUND, "workspace {workspace_name}", _ROLE + "AzureML Data Scientist (or wider)"
)
_ABSENT = _Row(
    errors.NOT_FOUND, "workspace {workspace_name}", "check the name; the Studio lists what there is"
)
_BUSY = _Row(
    errors.SERVICE, "Azure, after several tries", "try again in some minutes: the service is busy"
)
_OTHER = _Row(
    errors.SERVICE, "workspace {workspace_name}", "mend what the message names; --debug shows more"
)


@contextlib.contextmanager
def explained(config: WorkspaceConfig, headline: str) -> Iterator[None]:
    """Turns what the SDK raises into an `AzureError`; our own errors and defects pass through.

    Args:
        config: The workspace, for what to check.
        headline: What could not be done, such as "Cannot submit the job".
    """
    try:
        yield
    except AzureError:
        raise
    except Exception as error:
        if any(isinstance(link, KeyboardInterrupt) for link in chain(error)):
            # `jobs.stream` makes an error of its own of Ctrl-C.
            raise KeyboardInterrupt from error
        made = explain(error, config, headline)
        if made is None:
            raise
        raise made from error


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those behind it."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def explain(error: Exception, config: WorkspaceConfig, headline: str) -> AzureError | None:
    """The message for one error of the SDK, or None where it is no error of Azure."""
    from azure.core import exceptions as core

    made = _of_sdk(error, config, headline)
    if made is not None:
        return made
    # The SDK wraps some errors of service and network in its own, and loses what they were.
    spoken = (core.HttpResponseError, core.ServiceRequestError, core.ServiceResponseError)
    behind = next((link for link in chain(error) if isinstance(link, spoken)), None)
    if isinstance(behind, core.ClientAuthenticationError):
        return _of_login(behind, headline)
    if isinstance(behind, core.HttpResponseError):
        return _of_response(behind, config, headline)
    if behind is not None:
        fix = "check the network, and HTTPS_PROXY where a proxy is between; then try again"
        problem = Problem(f"no answer from Azure: {first_line(behind)}", "the network", fix)
        return AzureError([problem], headline, errors.SERVICE)
    return _of_the_rest(error, config, headline)


def _of_login(error: BaseException, headline: str) -> AzureError:
    fix = (
        f"{LOGIN}; where it says that there is no connection, check the network and "
        "HTTPS_PROXY; --debug shows every credential that was tried"
    )
    what = f"not logged in: {_attempts(error) or first_line(error)}"
    return AzureError([Problem(what, "Azure credentials", fix)], headline, errors.CREDENTIALS)


def _of_response(error: Any, config: WorkspaceConfig, headline: str) -> AzureError:
    code = code_of(error)
    text = first_line(error)
    quota = _QUOTA.search(error.message or "")
    if quota:
        row, text = _CODES["OutOfQuota"], f"not enough quota for {quota[1]}"
    elif code in _CODES:
        row = _CODES[code]
    elif error.status_code == 403:
        row = _DENIED
    elif error.status_code == 404:
        row = _ABSENT
    elif error.status_code == 429 or (error.status_code or 0) >= 500:
        row = _BUSY
    else:
        row = _OTHER
    known = f" ({code})" if code and code not in text else ""
    return _made(f"{text}{known}", row, config, headline)


def _of_sdk(error: Exception, config: WorkspaceConfig, headline: str) -> AzureError | None:
    """Errors of the SDK that say more than the answer of the service behind them."""
    from azure.ai.ml import exceptions as ml

    if isinstance(error, ml.JobException):
        fix = "read the job's log in the Studio: user_logs/std_log_process_0.txt"
        problem = Problem(f"the job failed: {job_message(error)}", "the job", fix)
        return AzureError([problem], headline, errors.SERVICE)
    missing = ml.ValidationErrorType.RESOURCE_NOT_FOUND
    if isinstance(error, ml.ValidationException) and error.error_type == missing:
        return _made(first_line(error), _ABSENT, config, headline)
    return None


def _of_the_rest(error: Exception, config: WorkspaceConfig, headline: str) -> AzureError | None:
    from azure.ai.ml import exceptions as ml
    from azure.core.exceptions import AzureError as CoreError

    if isinstance(error, ml.ValidationException | ml.AssetException):
        problem = Problem(first_line(error), "what was to be sent", "mend what the message names")
        return AzureError([problem], headline, errors.USAGE)
    if isinstance(error, CoreError):
        return _made(first_line(error), _OTHER, config, headline)
    return None


def _made(what: str, row: _Row, config: WorkspaceConfig, headline: str) -> AzureError:
    names = vars(config) | {"quoted_group": shlex.quote(config.resource_group)}
    problem = Problem(what, row.where.format(**names), row.fix.format(**names))
    return AzureError([problem], headline, row.status)


def code_of(error: Any) -> str:
    """The service's own error code: ARM says it in the body, storage in a header."""
    said = getattr(getattr(error, "error", None), "code", None) or getattr(
        error, "error_code", None
    )
    # Storage gives a member of an enumeration.
    return str(getattr(said, "value", said) or "")


def first_line(error: BaseException) -> str:
    """The first line of a message, without terminal colours, shortened."""
    text = _ANSI.sub("", str(getattr(error, "message", None) or error))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = lines[0] if lines else type(error).__name__
    # Azure's own text repeats the code in front: "(UserError) There is ...".
    return _shortened(re.sub(r"^\(\w+\)\s*", "", found))


def _attempts(error: BaseException) -> str:
    """What the two credentials said that the message tells how to mend, of all that were tried."""
    named = ("EnvironmentCredential:", "AzureCliCredential:")
    lines = [line.strip() for line in str(getattr(error, "message", "")).splitlines()]
    return "; ".join(_shortened(line) for line in lines if line.startswith(named))


def _shortened(text: str) -> str:
    return text if len(text) <= _TOO_MUCH_TEXT else f"{text[:_TOO_MUCH_TEXT]} ..."


def job_message(error: BaseException) -> str:
    """What a failed job said: `jobs.stream` puts it into its message as JSON."""
    text = _ANSI.sub("", str(error))
    with contextlib.suppress(ValueError, AttributeError, KeyError, TypeError):
        found = json.loads(text[text.index("{") :])
        found = found.get("error", found)
        return " ".join(str(found["message"]).split())
    return first_line(error)
