"""Runs a command against the emulator: `python -m homer.azure.emulator -- COMMAND`."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from acpt_trainer import Problem, raise_if_any
from homer.azure.emulator.emulator import REQUESTS, Emulator
from homer.azure.emulator.faults import load_faults
from homer.azure.emulator.hub import make_hub
from homer.azure.errors import reported
from homer.azure.workspace import load_workspace

EXAMPLE = Path(__file__).resolve().parents[3]
NOTICE = """\
[emulator] This is not Azure. The real SDK talks to a stand-in on 127.0.0.1.
[emulator] Other hosts are refused to all that honours HTTPS_PROXY; what does not may reach them.
[emulator] Not checked: that images build, permissions and quotas, mounts, the service's own
[emulator] rules for what is sent, several machines, GPUs, prices, and whether Azure has changed."""
_EPILOG = """\
STATE/config.json describes the workspace that is played: name it to the command as --ws_config.
Its computes are gpu8, gpu4, gpu1, k80, cpu, notebook and kubernetes. Jobs find a tiny model under
the name gpt2, unless --hf_home names a cache that holds the real one. Resources are kept in STATE
between runs, and STATE/requests.jsonl lists every request.

example:
  python -m homer.azure.emulator -- python aml_finetune.py \\
      --ws_config outputs/emulator/config.json --compute gpu8 \\
      --nproc_per_node 1 --block_size 64 --batch_size 2 --max_steps 4
"""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m homer.azure.emulator",
        description="Runs a command against a stand-in for Azure ML on this machine.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    state = EXAMPLE / "outputs" / "emulator"
    add("--state", type=Path, default=state, help="where everything is kept (outputs/emulator)")
    add("--ws_config", type=Path, help="play this workspace instead of the emulator's own")
    add("--faults", type=Path, help="JSON list of what is to go wrong (faults.py has the fields)")
    add("--hf_home", type=Path, help="Hugging Face home for jobs; a tiny gpt2 is made by default")
    add("command", nargs="+", help="after --")
    return parser.parse_args(argv)


def run(emulator: Emulator, command: Sequence[str]) -> int:
    """Runs the command to its end, passing signals on to it.

    Returns:
        Its exit status.
    """
    environment = os.environ | emulator.environment()
    # A process group of its own, so that Ctrl-C, at a terminal or by a fault, reaches it once.
    process = subprocess.Popen(command, env=environment, process_group=0)

    def forward(number: int, frame: object = None) -> None:
        if process.poll() is None:
            os.killpg(process.pid, number)

    emulator.interrupt = lambda: forward(signal.SIGINT)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    status = process.wait()
    return status if status >= 0 else 128 - status


def finish(emulator: Emulator) -> None:
    """Waits for jobs that the command left running, and says what is left."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    running = emulator.jobs.running()
    if running:
        print(f"[emulator] waiting for {', '.join(running)}; Ctrl-C ends it", flush=True)
        emulator.jobs.wait()
    for job in emulator.state.below(f"{emulator.state.workspace_id}/jobs"):
        print(f"[emulator] job {job['name']}: {job['properties']['status']}")
    for name in emulator.endpoints.running():
        print(f"[emulator] endpoint {name} is still there; on Azure it would cost money")
    if emulator.refused:
        print(f"[emulator] refused: {', '.join(sorted(set(emulator.refused)))}")
    print(f"[emulator] every request: {emulator.state.folder / REQUESTS}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the emulator around a command; returns the command's exit status."""
    args = parse(argv)
    with reported():
        workspace = load_workspace(args.ws_config) if args.ws_config else None
        faults = load_faults(args.faults) if args.faults else []
        text = EXAMPLE / "data" / "training_raw.txt"
        if args.hf_home is None and not text.is_file():
            fix = "run prepare_data.py first, or name a cache with --hf_home"
            raise_if_any([Problem("there is no text to make a tokenizer from", str(text), fix)])
        hub = args.hf_home or make_hub(args.state / "hub", text)
        print(NOTICE, flush=True)
        with Emulator(args.state, workspace, faults, hub) as emulator:
            status = run(emulator, args.command)
            finish(emulator)
    return status


if __name__ == "__main__":
    sys.exit(main())
