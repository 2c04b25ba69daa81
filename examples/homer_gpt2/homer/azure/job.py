"""What is submitted: a validated `JobSpec`, its command and its YAML for `az`. No Azure here."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from acpt_trainer import Problem

MODEL_NAME = "acpt-gpt2"
"""Name under which the trained model is registered."""
RUN_CONFIGS = ("no_acc", "ort", "ds", "ds_ort")
EXPERIMENT = "homer-gpt2"
CODE, ENVIRONMENT = "code", "environment"
"""Folders beside the YAML."""
_POSITIONS = 1024
"""Of GPT-2: the longest block that it can be trained on."""
_SCHEMA = "https://azuremlschemas.azureedge.net/latest/commandJob.schema.json"
_VARIABLES = {
    "NCCL_DEBUG": "WARN",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # A log file gets lines, not bars.
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


@dataclass(frozen=True)
class JobSpec:
    """One fine-tuning job.

    Attributes:
        compute: Name of the cluster; empty for a run on this machine.
        run_config: Which acceleration.
        nnode: Nodes.
        nproc_per_node: Processes on each, one for a GPU.
        block_size: Tokens in a sample.
        batch_size: Samples a process and step.
        max_steps: Optimizer steps.
    """

    compute: str
    run_config: str = "no_acc"
    nnode: int = 1
    nproc_per_node: int = 8
    block_size: int = 1024
    batch_size: int = 8
    max_steps: int = 2000

    def problems(self) -> list[Problem]:
        """Everything that is wrong with it and can be seen without Azure."""
        found = []
        for name in ("nnode", "nproc_per_node", "batch_size", "max_steps"):
            if getattr(self, name) < 1:
                what, fix = f"{getattr(self, name)} is too small", "give a whole number from 1 on"
                found.append(Problem(what, f"--{name}", fix))
        if not 2 <= self.block_size <= _POSITIONS:
            what = f"{self.block_size} tokens is no length that GPT-2 trains on"
            found.append(Problem(what, "--block_size", f"give 2 to {_POSITIONS}"))
        if self.run_config not in RUN_CONFIGS:
            what = f"there is no run config {self.run_config!r}"
            found.append(Problem(what, "--run_config", f"give one of {', '.join(RUN_CONFIGS)}"))
        return found

    @property
    def uses_ort(self) -> bool:
        """Whether the job needs ONNX Runtime training."""
        return "ort" in self.run_config.split("_")

    def arguments(self, model: str, checkpoints: str) -> list[str]:
        """The training script and its arguments.

        Checkpoints go to a folder of their own that is mounted under the same path when a
        preempted job is started again, which then goes on from the newest complete one.

        Args:
            model: Folder for model and metrics.
            checkpoints: Folder for checkpoints.
        """
        options = {
            "run_config": self.run_config,
            "block_size": self.block_size,
            "batch_size": self.batch_size,
            "max_steps": self.max_steps,
            "output_dir": model,
            "checkpoint_dir": checkpoints,
        }
        flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        return ["finetune.py", *flags, "--resume"]

    def command(self) -> str:
        """The command of the job. Azure ML starts it once for each process and sets the ranks."""
        made = self.arguments("${{outputs.model}}", "${{outputs.checkpoints}}")
        return " ".join(["python", *made])

    def local_command(self, python: str, model: str, checkpoints: str) -> list[str]:
        """The same command for this machine, under torchrun."""
        launcher = [python, "-m", "torch.distributed.run", "--standalone"]
        launcher += ["--nproc_per_node", str(self.nproc_per_node)]
        return [*launcher, *self.arguments(model, checkpoints)]

    def to_yaml(self) -> dict[str, Any]:
        """The job as `az ml job create -f` reads it; paths are relative to the file."""
        size = f"{self.nnode}x{self.nproc_per_node}"
        settings = {
            name: str(getattr(self, name))
            for name in ("run_config", "block_size", "batch_size", "max_steps")
        }
        return {
            "$schema": _SCHEMA,
            "type": "command",
            "experiment_name": EXPERIMENT,
            "display_name": f"{EXPERIMENT}-{self.run_config}-{size}",
            "description": f"Fine-tunes GPT-2 on Homer with {self.run_config}.",
            "command": self.command(),
            "code": CODE,
            # Without a name, so that the same image is found by its content.
            "environment": {"build": {"path": ENVIRONMENT}},
            "compute": f"azureml:{self.compute}",
            "distribution": {
                "type": "pytorch",
                "process_count_per_instance": self.nproc_per_node,
            },
            # NCCL's shared memory: the 2 GB of a container are too few for 8 processes.
            "resources": {"instance_count": self.nnode, "shm_size": "16g"},
            "environment_variables": dict(_VARIABLES),
            "outputs": {
                # A name registers what is there when the job has completed.
                "model": {"type": "custom_model", "mode": "rw_mount", "name": MODEL_NAME},
                "checkpoints": {"type": "uri_folder", "mode": "rw_mount"},
            },
            "tags": {**settings, "nodes": str(self.nnode), "processes": size},
        }

    def az_line(self, file: str, workspace: str) -> str:
        """The `az` command that submits the YAML.

        Args:
            file: Path of the YAML.
            workspace: Options that name the workspace.
        """
        return f"az ml job create -f {shlex.quote(file)} {workspace}"
