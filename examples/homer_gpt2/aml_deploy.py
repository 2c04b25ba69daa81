"""Deploys the registered model acpt-gpt2 to an endpoint of Azure ML and asks it a sample prompt."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from homer.azure import errors
from homer.azure.command_line import command_line
from homer.azure.deploy_spec import DeploySpec
from homer.azure.deployment import Deployment, newest_model
from homer.azure.endpoints import delete, endpoints, spelled
from homer.azure.errors import AzureError, not_installed, reported
from homer.azure.job import MODEL_NAME
from homer.azure.owner import own_tags
from homer.azure.scoring import PROMPT, ScoringError, ask
from homer.azure.workspace import WorkspaceConfig, load_workspace
from homer.foreground import ended_like_ctrl_c
from homer.local_server import LocalServer, ServerError, serving

from acpt_trainer import ConfigurationError, Problem, raise_if_any

OUTPUTS = Path(__file__).resolve().parent / "outputs"
_CANNOT = "Cannot deploy"
_EPILOG = """\
examples:
  python aml_deploy.py --ws_config config.json

  Delete it; without a name, the one that was made from this folder:
    python aml_deploy.py --ws_config config.json --delete --endpoint_name acpt-gpt2-1a2b3c4d

  Serve a model folder here, without Azure, until Ctrl-C:
    python aml_deploy.py --local outputs/no_acc --serve

Exit statuses: 0 done; 2 the command line or a file does not fit; 3 credentials; 4 not found or not
allowed; 5 the service or the model failed; 130 interrupted.
"""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = command_line(__doc__, _EPILOG)
    add = parser.add_argument
    add("--endpoint_name", help="name of the endpoint (default: acpt-gpt2- and a random part)")
    add(
        "--instance_type",
        default=DeploySpec.instance_type,
        help=f"size of the machine that serves (default: {DeploySpec.instance_type})",
    )
    add(
        "--timeout",
        type=float,
        default=3600,
        help="seconds for endpoint, deployment and the first answer (default: 3600)",
    )
    add("--prompt", default=PROMPT, help=f"the sample prompt (default: {PROMPT!r})")
    add("--keep", action="store_true", help="keep what a failed deployment made; it is paid for")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--delete", action="store_true", help="delete the endpoint, deploy nothing")
    how.add_argument("--local", type=Path, metavar="MODEL_DIR", help="serve a model here; no Azure")
    add("--serve", action="store_true", help="with --local: serve until Ctrl-C")
    add("--port", type=int, default=0, help="with --local: where to listen (default: a free port)")
    args = parser.parse_args(argv)
    if args.ws_config is None and args.local is None:
        parser.error("the following arguments are required: --ws_config")
    if args.local is None and (args.serve or args.port):
        parser.error("--serve and --port are for --local MODEL_DIR")
    return args


def spec_of(args: argparse.Namespace) -> DeploySpec:
    """The deployment that the command line asks for."""
    given = {"endpoint_name": args.endpoint_name} if args.endpoint_name is not None else {}
    return DeploySpec(
        instance_type=args.instance_type, timeout=args.timeout, keep=args.keep, **given
    )


def say(text: str) -> None:
    """Prints at once, also into a file."""
    print(text, flush=True)


def show(prompt: str, answer: dict[str, object], url: str) -> None:
    """Prints what was asked, and what was answered."""
    text = answer["answers"][0]["text"]  # type: ignore[index]
    # A model may write whatever a terminal obeys.
    text = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
    say(f"prompt: {prompt}\nanswer: {text}\nanswered by: {url}")


def deploy(args: argparse.Namespace, config: WorkspaceConfig) -> None:
    """Deploys the newest model and asks the sample prompt.

    Raises:
        AzureError: If that fails; what was made is deleted by then.
    """
    from homer.azure.client import connect

    spec = spec_of(args)
    client = connect(config, args.debug)
    model = newest_model(client, config)
    taken = spelled(spec.endpoint_name, endpoints(client, config, OUTPUTS))
    if taken is not None:
        fix = "name another one, or delete it first with --delete"
        what = f"the endpoint {taken} is there already"
        raise AzureError([Problem(what, "--endpoint_name", fix)], _CANNOT)
    tags = own_tags(OUTPUTS)
    line = f"aml_deploy.py --ws_config {shlex.quote(str(args.ws_config))} --delete"
    say(
        f"model: {MODEL_NAME}, version {model.version}\n"
        f"endpoint: {spec.endpoint_name}, one {spec.instance_type}. It costs money as long as it "
        f"exists, asked or not.\nThis deletes it:\n"
        f"    python {line} --endpoint_name {spec.endpoint_name}"
    )
    deployment = Deployment(client, config, spec, tags, say)
    with deployment.rolled_back_on_failure():
        live = deployment.make(model.version)
        try:
            answer = ask(live.url, args.prompt, live.key, patience=deployment.patience())
        except ScoringError as error:
            fix = "read the log above; python aml_deploy.py --local MODEL_DIR tries the model here"
            problem = Problem(f"the prompt was not answered: {error}", live.url, fix)
            raise AzureError([problem], _CANNOT, errors.SERVICE) from error
        show(args.prompt, answer, live.url)
    say(f"its key: az ml online-endpoint get-credentials --name {spec.endpoint_name} "
        f"{config.arguments}")  # fmt: skip


def ask_here(server: LocalServer, prompt: str) -> dict[str, object]:
    """Asks the server of this machine; its log goes with it, so its end is in the error."""
    try:
        return ask(server.scoring_url, prompt)
    except ScoringError as error:
        raise ServerError(f"{error}; {server.said()}") from error


def serve_here(args: argparse.Namespace) -> None:
    """Serves a model folder on this machine, and asks the sample prompt.

    Raises:
        AzureError: If the server or the model fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "server.txt"
        try:
            with serving(args.local, log, port=args.port, timeout=args.timeout) as server:
                say(f"serving {args.local} on {server.url}")
                show(args.prompt, ask_here(server, args.prompt), server.scoring_url)
                if args.serve:
                    data = '{"prompt": "Sing, O goddess", "seed": 7}'
                    say(f"try: curl {server.scoring_url} --data '{data}'\nCtrl-C ends it")
                    server.process.wait()
                    server.check()
        except ServerError as error:
            fix = "mend what it names; another port is taken with --port"
            problem = Problem(str(error), f"--local {args.local}", fix)
            raise AzureError([problem], "Cannot serve", errors.SERVICE) from error


def option_problems(args: argparse.Namespace) -> list[Problem]:
    """What is not installed, not there, or cannot be asked."""
    needs = ("azure.ai.ml", "aml")
    if args.local is not None:
        needs = ("azureml_inference_server_http", "serve")
    found = not_installed(*needs)
    if not args.prompt or not args.prompt.isprintable():
        found.append(Problem("it is empty, or no plain text", "--prompt", "give some words"))
    if args.local is not None and not args.local.is_dir():
        fix = "name the folder that finetune.py wrote, such as outputs/no_acc"
        found.append(Problem("there is no such folder", f"--local {args.local}", fix))
    return found


def checked(args: argparse.Namespace) -> WorkspaceConfig | None:
    """The workspace, or None with `--local`.

    Raises:
        ConfigurationError: With all that is wrong and seen without Azure.
    """
    problems, config = [*option_problems(args), *spec_of(args).problems()], None
    if args.local is None:
        try:
            config = load_workspace(args.ws_config)
        except ConfigurationError as error:
            problems = [*error.problems, *problems]
    raise_if_any(problems, _CANNOT)
    return config


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the script; returns the exit status."""
    args = parse(argv)
    # What the terminal cannot show is no reason to take a deployment back.
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    # The end of a pipeline's job, or of a terminal, must not leave an endpoint either.
    with ended_like_ctrl_c(), reported(args.debug):
        config = checked(args)
        if config is None:
            serve_here(args)
            return 0
        if not args.debug:
            from homer.azure.client import quieten

            quieten()
            # Modules of the SDK have handlers of their own for what we say ourselves.
            logging.disable(logging.INFO)
        if args.delete:
            from homer.azure.client import connect

            delete(connect(config, args.debug), config, args.endpoint_name, OUTPUTS, say)
        else:
            deploy(args, config)
    return 0


if __name__ == "__main__":
    sys.exit(main())
