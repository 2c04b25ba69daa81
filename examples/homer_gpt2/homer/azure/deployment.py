"""A deployment as a transaction: what it made is deleted when it fails or is interrupted."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from acpt_trainer import Problem
from homer.azure import errors
from homer.azure.deploy_spec import CONDA_FILE, DEPLOYMENT, IMAGE, DeploySpec
from homer.azure.endpoints import az_delete, remove, wait_for
from homer.azure.errors import AzureError
from homer.azure.failures import explained
from homer.azure.job import MODEL_NAME
from homer.azure.workspace import WorkspaceConfig
from homer.local_server import SERVER_SETTINGS, SERVING

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import ManagedOnlineDeployment

_CANNOT = "Cannot deploy"
_LOG_LINES = 60


@dataclass(frozen=True)
class Live:
    """An endpoint that answers.

    Attributes:
        url: Where prompts are sent.
        key: What they are sent with.
    """

    url: str
    key: str = field(repr=False)


def newest_model(client: MLClient, config: WorkspaceConfig) -> Any:
    """The newest version of the registered model.

    Raises:
        AzureError: If there is none, or it cannot be looked up.
    """
    from azure.ai.ml.exceptions import ValidationErrorType, ValidationException
    from azure.core.exceptions import ResourceNotFoundError

    with explained(config, _CANNOT):
        try:
            return client.models.get(MODEL_NAME, label="latest")
        except (ResourceNotFoundError, ValidationException) as error:
            missing = ValidationErrorType.RESOURCE_NOT_FOUND
            if isinstance(error, ValidationException) and error.error_type != missing:
                raise
            what = f"no model {MODEL_NAME} is registered"
            fix = "train first: python aml_finetune.py; a job registers its model when it completes"
            problem = Problem(what, f"workspace {config.workspace_name}", fix)
            raise AzureError([problem], _CANNOT, errors.NOT_FOUND) from error


class Deployment:
    """Makes an endpoint with one deployment that gets all traffic.

    Args:
        client: The workspace.
        config: Names it, for messages.
        spec: What is wanted.
        tags: Of the endpoint.
        say: Prints.
    """

    def __init__(
        self,
        client: MLClient,
        config: WorkspaceConfig,
        spec: DeploySpec,
        tags: Mapping[str, str],
        say: Callable[[str], None] = print,
    ) -> None:
        self._client, self._config, self._spec, self._say = client, config, spec, say
        self._tags = dict(tags)
        self._deadline = time.monotonic() + spec.timeout
        self._asked_to_deploy = False

    @contextlib.contextmanager
    def rolled_back_on_failure(self) -> Iterator[None]:
        """Whatever ends the block, Ctrl-C too, what was made in it is deleted again."""
        try:
            yield
        except BaseException as error:
            self._roll_back(error)
            raise

    def make(self, version: str) -> Live:
        """Makes it; to be called within `rolled_back_on_failure`.

        Args:
            version: Of the model.

        Raises:
            AzureError: If it cannot be made in time.
        """
        from azure.ai.ml.entities import ManagedOnlineEndpoint

        name, online = self._spec.endpoint_name, self._client.online_endpoints
        with explained(self._config, _CANNOT):
            self._say(f"making the endpoint {name} ...")
            endpoint = ManagedOnlineEndpoint(name=name, auth_mode="key", tags=self._tags)
            self._wait(online.begin_create_or_update(endpoint), "the endpoint")
            self._say("deploying; the first time an image is built, which takes 10 to 20 minutes")
            self._asked_to_deploy = True
            deployment = _deployment(self._spec, version)
            deployments = self._client.online_deployments
            self._wait(deployments.begin_create_or_update(deployment), "the deployment")
            endpoint.traffic = {DEPLOYMENT: 100}
            self._wait(online.begin_create_or_update(endpoint), "the traffic")
            key = online.get_keys(name).primary_key
            return Live(online.get(name).scoring_uri, key)

    def _wait(self, poller: Any, what: str) -> None:
        late = Problem(f"{what} is not done in time", "--timeout", "give more seconds")
        wait_for(poller, what, self._deadline, self._say, late)

    def patience(self, most: float = 60) -> float:
        """Seconds for which an endpoint that does not answer yet is asked again."""
        return min(most, max(0.0, self._deadline - time.monotonic()))

    def _roll_back(self, error: BaseException) -> None:
        name = self._spec.endpoint_name
        line = az_delete(self._config, name)
        if self._spec.keep:
            self._tell(f"kept, and paid for, as --keep says: {name}; this deletes it:\n    {line}")
            return
        try:
            self._tell(f"not deployed; the endpoint {name} is deleted again ...")
            if self._asked_to_deploy:
                self._show_log()
            remove(self._client, self._config, name, self._tell)
        except KeyboardInterrupt:
            self._tell(f"interrupted: {name} may still be there and cost money; delete it:\n{line}")
            raise
        except Exception as failed:
            found = list(error.problems) if isinstance(error, AzureError) else []
            why = failed.problems[0].what if isinstance(failed, AzureError) else repr(failed)
            what = f"the endpoint {name} could not be deleted and may cost money: {why}"
            found.append(Problem(what, f"workspace {self._config.workspace_name}", f"run: {line}"))
            raise AzureError(found, _CANNOT, errors.SERVICE) from failed
        self._tell(f"the endpoint {name} is deleted")

    def _tell(self, text: str) -> None:
        """Prints while cleaning up, which must not end because nobody reads any more."""
        try:
            self._say(text)
        except OSError:
            # The SDK prints dots.
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115

    def _show_log(self) -> None:
        """Shows the end of the container's log: it is gone with the endpoint."""
        # It may not be there, and a Ctrl-C here is one for the log, not for the deletion.
        with contextlib.suppress(Exception, KeyboardInterrupt):
            text = self._client.online_deployments.get_logs(
                DEPLOYMENT, self._spec.endpoint_name, lines=_LOG_LINES
            )
            listed = "\n".join(f"    {line}" for line in text.splitlines()[-_LOG_LINES:])
            self._tell(f"the log of the deployment ends with:\n{listed}")


def _deployment(spec: DeploySpec, version: str) -> ManagedOnlineDeployment:
    from azure.ai.ml.entities import (
        CodeConfiguration,
        Environment,
        ManagedOnlineDeployment,
        OnlineRequestSettings,
        ProbeSettings,
    )

    probe = ProbeSettings(initial_delay=20, period=10, timeout=5, failure_threshold=30)
    return ManagedOnlineDeployment(
        name=DEPLOYMENT,
        endpoint_name=spec.endpoint_name,
        # By name: the SDK refuses the object it gave itself where a job made it.
        model=f"azureml:{MODEL_NAME}:{version}",
        environment=Environment(image=IMAGE, conda_file=str(CONDA_FILE)),
        code_configuration=CodeConfiguration(code=str(SERVING), scoring_script="score.py"),
        instance_type=spec.instance_type,
        instance_count=1,
        environment_variables=dict(SERVER_SETTINGS),
        # Longer than score.py takes, so that its own message about the time arrives; and as many
        # at once as it answers and lets wait.
        request_settings=OnlineRequestSettings(
            request_timeout_ms=90_000, max_concurrent_requests_per_instance=5
        ),
        liveness_probe=probe,
        readiness_probe=probe,
        tags={"model": f"{MODEL_NAME}:{version}"},
    )
