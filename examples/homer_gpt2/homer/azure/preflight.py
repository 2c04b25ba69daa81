"""Whether a compute can run the job, asked before anything is uploaded."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from acpt_trainer import Problem
from homer.azure import errors
from homer.azure.failures import explained
from homer.azure.job import JobSpec
from homer.azure.sizes import has_gpu, too_old_gpu
from homer.azure.workspace import WorkspaceConfig

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

_CLUSTER, _INSTANCE = "amlcompute", "computeinstance"
_HEADLINE = "Cannot look at the compute"


@dataclass
class Findings:
    """What stands in the way, and what is only worth saying.

    Attributes:
        problems: What stands in the way.
        notes: What does not.
        status: The exit status that the gravest problem asks for.
    """

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    status: int = errors.USAGE

    def add(self, what: str, where: str, fix: str, status: int = errors.USAGE) -> None:
        """Adds a problem."""
        self.problems.append(Problem(what, where, fix))
        self.status = max(self.status, status)


def check_compute(client: MLClient, config: WorkspaceConfig, spec: JobSpec) -> Findings:
    """Looks the compute up and compares it with the job.

    Raises:
        AzureError: If it cannot be looked at.
    """
    from azure.core.exceptions import ResourceNotFoundError

    found = Findings()
    where = f"--compute {spec.compute}"
    with explained(config, _HEADLINE):
        try:
            compute = client.compute.get(spec.compute)
        except ResourceNotFoundError:
            names = ", ".join(_described(c) for c in client.compute.list()) or "none yet"
            what = f"workspace {config.workspace_name} has no such compute; it has: {names}"
            fix = f"name one of them, or make one: {_create_line(spec, config)}"
            found.add(what, where, fix, errors.NOT_FOUND)
            return found
    if compute.type not in (_CLUSTER, _INSTANCE):
        fix = f"name a cluster, or make one: {_create_line(spec, config)}"
        found.add(f"it is of the type {compute.type}, no training cluster", where, fix)
        return found
    _check_nodes(found, compute, spec, where)
    _check_gpus(found, compute.size, _gpus_of(client, compute.size), spec, where)
    return found


def _gpus_of(client: MLClient, size: str) -> int | None:
    """GPUs of a size, or None where that cannot be found out.

    Sizes belong to the subscription: a role on the workspace alone may not list them, and may
    still submit.
    """
    from azure.core.exceptions import HttpResponseError

    try:
        sizes = {s.name.lower(): s.gpus for s in client.compute.list_sizes()}
    except HttpResponseError:
        sizes = {}
    return sizes.get(size.lower(), None if has_gpu(size) else 0)


def _described(compute: Any) -> str:
    size = getattr(compute, "size", None)
    return f"{compute.name} ({size})" if size else str(compute.name)


def _create_line(spec: JobSpec, config: WorkspaceConfig) -> str:
    return (
        f"az ml compute create --type AmlCompute --name {shlex.quote(spec.compute)} --size SIZE "
        f"--min-instances 0 --max-instances {spec.nnode} {config.arguments}"
    )


def _check_nodes(found: Findings, compute: Any, spec: JobSpec, where: str) -> None:
    state = compute.provisioning_state
    if state not in (None, "Succeeded"):
        fix = "look at it in the Studio, or name another one"
        found.add(f"it is not ready: its state is {state}", where, fix)
    most = 1 if compute.type == _INSTANCE else compute.max_instances
    if most is not None and spec.nnode > most:
        what = f"{spec.nnode} nodes are asked for, and {spec.compute} has at most {most}"
        fix = f"give --nnode {max(most, 1)} at most, or raise the cluster's maximum"
        found.add(what, "--nnode", fix)


def _check_gpus(found: Findings, size: str, gpus: int | None, spec: JobSpec, where: str) -> None:
    old = too_old_gpu(size)
    if old is not None:
        found.notes.append(
            f"{size} has {old} GPUs, which the image's torch has no code for (CUDA 13 starts at "
            "T4): take a newer size, such as Standard_NC24ads_A100_v4"
        )
    if gpus is None:
        found.notes.append(f"Azure does not list {size}: its number of GPUs is not checked")
    elif gpus == 0:
        fix = "name a cluster with GPUs, such as one of Standard_NC24ads_A100_v4"
        found.add(f"its size {size} has no GPU", where, fix)
    elif spec.nproc_per_node > gpus:
        what = f"{spec.nproc_per_node} processes a node, and {size} has {gpus} GPU(s)"
        found.add(what, "--nproc_per_node", f"give --nproc_per_node {gpus}")
    elif spec.nproc_per_node < gpus:
        idle = gpus - spec.nproc_per_node
        found.notes.append(f"{idle} of the {gpus} GPUs of each {size} will idle and be paid for")
