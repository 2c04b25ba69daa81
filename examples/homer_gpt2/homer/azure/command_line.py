"""What the command lines of both Azure scripts begin with."""

from __future__ import annotations

import argparse
from pathlib import Path


def command_line(description: str | None, epilog: str) -> argparse.ArgumentParser:
    """A parser with the options that both scripts have; the epilog is printed as it is."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--ws_config", type=Path, help="the workspace's config.json (needed unless --local)")
    add("--debug", action="store_true", help="show the SDK's own messages and errors")
    return parser
