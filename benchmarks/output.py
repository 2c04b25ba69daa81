"""Where the result of a script goes: to its reader, and into a file that is kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def keep(result: Mapping[str, Any], file: Path | None) -> None:
    """Prints a result, and writes it.

    Args:
        result: What was measured.
        file: Where to, if anywhere; its folder is made.
    """
    text = json.dumps(result, indent=2)
    print(text)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")
