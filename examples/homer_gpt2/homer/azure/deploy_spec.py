"""What is deployed: a validated `DeploySpec`, and the names around it. No Azure here."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field

from acpt_trainer import Problem
from homer.azure.job import MODEL_NAME
from homer.azure.sizes import has_gpu
from homer.local_server import SERVING

DEPLOYMENT = "blue"
IMAGE = "mcr.microsoft.com/azureml/curated/minimal-py311-inference:59"
"""Base of the image; what is installed on it is in `environment/serving.yaml`."""
CONDA_FILE = SERVING.parent / "environment" / "serving.yaml"
_CPU_ONLY = "download.pytorch.org/whl/cpu"
_NAME = re.compile("[a-zA-Z](?:[a-zA-Z0-9-]{1,30}[a-zA-Z0-9])")


def new_name() -> str:
    """A name that no endpoint of the region has: names are shared by all its users."""
    return f"{MODEL_NAME}-{secrets.token_hex(4)}"


@dataclass(frozen=True)
class DeploySpec:
    """What is to be deployed, and how long it may take.

    Attributes:
        endpoint_name: Name of the endpoint to make.
        instance_type: Size of the machine that serves.
        timeout: Seconds until endpoint and deployment are there and the prompt is answered.
        keep: Whether what a failed deployment made is kept.
    """

    endpoint_name: str = field(default_factory=new_name)
    instance_type: str = "Standard_DS3_v2"
    timeout: float = 3600
    keep: bool = False

    def problems(self) -> list[Problem]:
        """Everything that is wrong with it and can be seen without Azure."""
        found = []
        if not _NAME.fullmatch(self.endpoint_name):
            what = f"{self.endpoint_name!r} is no name of an endpoint"
            fix = "give 3 to 32 letters, digits and hyphens; a letter first, no hyphen at the end"
            found.append(Problem(what, "--endpoint_name", fix))
        if not re.fullmatch(r"Standard_\w+", self.instance_type):
            what = f"{self.instance_type!r} is no size of a machine"
            found.append(Problem(what, "--instance_type", "give one such as Standard_DS3_v2"))
        elif has_gpu(self.instance_type) and _CPU_ONLY in CONDA_FILE.read_text():
            what = f"{self.instance_type} has a GPU, and the image's torch uses none"
            fix = (
                f"take a size without one, or remove {_CPU_ONLY} from environment/{CONDA_FILE.name}"
            )
            found.append(Problem(what, "--instance_type", fix))
        if not 1 <= self.timeout <= 86_400:
            what = f"{self.timeout:g} seconds are out of range"
            found.append(Problem(what, "--timeout", "give 1 to 86400"))
        return found
