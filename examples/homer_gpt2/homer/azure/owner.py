"""Which endpoints are this folder's: those that carry the id which `aml_deploy.py` keeps here."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from acpt_trainer import Problem
from homer.azure.errors import AzureError

_TAG = "made_from"
_FILE = "aml_deploy_id"


def own_tags(outputs: Path) -> dict[str, str]:
    """The tags of an endpoint that is made from this folder; makes the folder's id the first time.

    A tag that every user of the script had would let `--delete` take a colleague's endpoint.

    Args:
        outputs: The folder that keeps the id.

    Raises:
        AzureError: If it cannot be kept.
    """
    known = _known(outputs)
    if not known:
        known = secrets.token_hex(8)
        try:
            outputs.mkdir(parents=True, exist_ok=True)
            (outputs / _FILE).write_text(f"{known}\n", encoding="utf-8")
        except OSError as error:
            what = f"the id by which --delete finds the endpoint cannot be kept: {error.strerror}"
            problem = Problem(what, str(outputs / _FILE), "make the folder writable")
            raise AzureError([problem], "Cannot deploy") from error
    return {"made_by": "aml_deploy.py", _TAG: known}


def is_own(tags: Mapping[str, str] | None, outputs: Path) -> bool:
    """Whether an endpoint with these tags was made from this folder."""
    known = _known(outputs)
    return bool(known) and dict(tags or {}).get(_TAG) == known


def _known(outputs: Path) -> str:
    try:
        return (outputs / _FILE).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
