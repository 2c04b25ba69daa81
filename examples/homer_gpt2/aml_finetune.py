"""Fine-tunes GPT-2 on the prepared text in Azure ML, and registers it as the model acpt-gpt2."""

from __future__ import annotations

import argparse
import secrets
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homer import foreground
from homer.azure import errors
from homer.azure.command_line import command_line
from homer.azure.errors import AzureError, not_installed, reported
from homer.azure.job import EXPERIMENT, MODEL_NAME, RUN_CONFIGS, JobSpec
from homer.azure.staging import data_problems, stage
from homer.azure.workspace import WorkspaceConfig, load_workspace

from acpt_trainer import ConfigurationError, Problem, raise_if_any

if TYPE_CHECKING:
    from azure.ai.ml import MLClient

HERE = Path(__file__).resolve().parent
_CANNOT = "Cannot submit the job"
_EPILOG = """\
examples:
  python aml_finetune.py --ws_config config.json --compute gpu-cluster --run_config ds_ort

  Look at what would be submitted, without Azure; or run it here, on this machine's two GPUs:
    python aml_finetune.py --ws_config config.json --compute gpu-cluster --dry_run
    python aml_finetune.py --run_config ds_ort --nproc_per_node 2 --local

Exit statuses: 0 done; 2 the command line, a file or the compute does not fit; 3 credentials;
4 not found or not allowed; 5 the service or the job failed; 130 interrupted.
"""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = command_line(__doc__, _EPILOG)
    add = parser.add_argument
    add("--compute", help="name of the cluster to run on (needed unless --local)")
    add("--run_config", default="no_acc", choices=RUN_CONFIGS, help="default: no_acc")
    add("--nnode", type=int, default=1, help="nodes (default: 1)")
    add("--nproc_per_node", type=int, default=8, help="processes, or GPUs, a node (default: 8)")
    add("--block_size", type=int, default=1024, help="tokens in a sample (default: 1024)")
    add("--batch_size", type=int, default=8, help="samples a process and step (default: 8)")
    add("--max_steps", type=int, default=2000, help="optimizer steps (default: 2000)")
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--wait", action="store_true", help="stay until the job has ended; show its log"
    )
    how.add_argument(
        "--dry_run", action="store_true", help="write what would be submitted; no Azure"
    )
    how.add_argument("--local", action="store_true", help="run the same command here; no Azure")
    args = parser.parse_args(argv)
    missing = [f"--{name}" for name in ("ws_config", "compute") if not getattr(args, name)]
    if missing and not args.local:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    return args


def spec_of(args: argparse.Namespace) -> JobSpec:
    """The job that the command line asks for."""
    given = {name: getattr(args, name) for name in JobSpec.__dataclass_fields__}
    return JobSpec(**given | {"compute": args.compute or ""})


def config_and_problems(args: argparse.Namespace) -> tuple[WorkspaceConfig | None, list[Problem]]:
    """The workspace, where the file is good, and all that is wrong and seen without Azure."""
    found = [*spec_of(args).problems(), *data_problems()]
    try:
        return load_workspace(args.ws_config), found
    except ConfigurationError as error:
        return None, [*error.problems, *found]


def connected(
    config: WorkspaceConfig | None, spec: JobSpec, problems: list[Problem], debug: bool
) -> tuple[MLClient, WorkspaceConfig]:
    """Asks Azure about workspace and compute; all problems end in one error, before any upload."""
    absent = not_installed("azure.ai.ml", "aml")
    if config is None or absent:
        raise ConfigurationError([*problems, *absent], _CANNOT)
    from homer.azure.client import connect
    from homer.azure.preflight import check_compute

    try:
        client = connect(config, debug)
        found = check_compute(client, config, spec)
    except AzureError as error:
        raise AzureError([*error.problems, *problems], _CANNOT, error.status) from error.__cause__
    for note in found.notes:
        print(f"note: {note}", flush=True)
    if problems or found.problems:
        raise AzureError([*found.problems, *problems], _CANNOT, found.status)
    return client, config


def submit(client: MLClient, config: WorkspaceConfig, spec: JobSpec) -> Any:
    """Uploads code and environment, submits the job and returns it."""
    from azure.ai.ml import load_job
    from homer.azure.failures import explained
    from homer.azure.following import send

    # A name of ours: a request that is sent again makes no second job, and one that is cut off
    # leaves a job that can be named.
    name = f"{EXPERIMENT}-{spec.run_config}-{secrets.token_hex(4)}"
    with tempfile.TemporaryDirectory() as folder, explained(config, _CANNOT):
        job = load_job(stage(spec, Path(folder)))
        job.name = name
        return send(client, config, job)


def dry_run(config: WorkspaceConfig, spec: JobSpec) -> None:
    """Writes what would be submitted, and prints the `az` command that submits it."""
    file = stage(spec, HERE / "outputs" / "aml_job")
    print(file.read_text(encoding="utf-8"))
    print(f"written: {file.parent} (job.yml, code, environment); nothing was submitted")
    print(f"submit it with: {spec.az_line(str(file), config.arguments)}")


def run_here(spec: JobSpec) -> int:
    """Runs the job's command on this machine; returns its exit status."""
    problems = [*spec.problems(), *data_problems()]
    if spec.nnode > 1:
        fix = "leave --nnode out, or submit the job"
        problems.append(Problem("this is one machine", f"--local --nnode {spec.nnode}", fix))
    raise_if_any(problems, "Cannot run here")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    output = HERE / "outputs" / "local" / f"{spec.run_config}-{stamp}"
    folders = (str(output / "model"), str(output / "checkpoints"))
    command = spec.local_command(sys.executable, *folders)
    print(f"running here: {shlex.join(command)}", flush=True)
    status = foreground.run(command, HERE)
    if status == 0:
        print(f"next: python aml_deploy.py --local {shlex.quote(folders[0])}")
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script; returns the exit status."""
    args = parse(argv)
    spec = spec_of(args)
    with reported(args.debug):
        if args.local:
            return errors.SERVICE if run_here(spec) else 0
        config, problems = config_and_problems(args)
        if args.dry_run:
            raise_if_any(problems, _CANNOT)
            assert config is not None
            dry_run(config, spec)
            return 0
        client, config = connected(config, spec, problems, args.debug)
        job = submit(client, config, spec)
        print(f"job: {job.name}\nstudio: {job.studio_url}", flush=True)
        if args.wait:
            from homer.azure.following import follow

            print(f"registered: {MODEL_NAME}, version {follow(client, config, job)}")
        config_file = shlex.quote(str(args.ws_config))
        print(f"next, when it has completed: python aml_deploy.py --ws_config {config_file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
