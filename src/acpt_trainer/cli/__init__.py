"""The command line `acpt-trainer`; nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from acpt_trainer.cli.bench import bench_strategies
from acpt_trainer.cli.env import show_environment
from acpt_trainer.cli.graph import write_graph
from acpt_trainer.cli.verify import verify_strategy
from acpt_trainer.errors import reported_errors
from acpt_trainer.registry import available_strategies, get_strategy
from acpt_trainer.signals import orderly_sigterm

app = typer.Typer(
    help="Accelerate Hugging Face training by name.",
    no_args_is_help=True,
    add_completion=False,
    # --batch-size is --batch_size.
    context_settings={"token_normalize_func": lambda name: name.replace("-", "_")},
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.callback()
def _root() -> None:
    """Accelerate Hugging Face training by name."""


@app.command()
def strategies(as_json: Json = False) -> None:
    """List the strategies: which run here, and what the others need.

    Example: acpt-trainer strategies --json
    """
    listed: list[dict[str, Any]] = []
    for name in available_strategies():
        spec = get_strategy(name)
        missing = [{"what": p.what, "fix": p.fix} for p in spec.problems()]
        listed.append({"name": name, "description": spec.description, "missing": missing})
    if as_json:
        typer.echo(json.dumps(listed, indent=2))
        return
    wide = max(len(entry["name"]) for entry in listed)
    for entry in listed:
        typer.echo(f"{entry['name']:<{wide}} {entry['description']}")
        for problem in entry["missing"]:
            for line in (f"not here: {problem['what']}", f"fix: {problem['fix']}"):
                typer.echo(f"{'':<{wide}} {line}")


app.command("env")(show_environment)
app.command("graph")(write_graph)
app.command("verify")(verify_strategy)
app.command("bench")(bench_strategies)


def main() -> None:
    """Runs the command line; a user's mistake is one message and exit status 2."""
    with orderly_sigterm(), reported_errors():
        app()
