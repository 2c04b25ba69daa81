"""What the command line shows of ONNX Runtime training here: patches, providers, a checked step."""

from __future__ import annotations

from typing import Any

from acpt_trainer.errors import Problem


def patch_states() -> list[dict[str, Any]]:
    """The patches in their order: name, whether the installed versions need it, scope, reason."""
    from acpt_trainer.ort.patches import PATCHES

    return [
        {"name": p.name, "needed": p.needed(), "scope": p.scope.name.lower(), "why": p.why}
        for p in PATCHES
    ]


def providers() -> list[str]:
    """The execution providers of the installed ONNX Runtime.

    Raises:
        ImportError: If it is not installed or cannot be loaded.
    """
    from acpt_trainer.ort import patches

    patches.start()  # importing it replaces parts of torch, unless that is contained
    try:
        import onnxruntime

        return list(onnxruntime.get_available_providers())
    finally:
        patches.stop()


def toolchain() -> dict[str, Any]:
    """The C++ compiler that extensions are built with where a graph needs one."""
    from acpt_trainer.toolchain import find

    found = find()
    return {
        "command": found.compiler,
        "version": found.version,
        "missing": list(found.missing()),
    }


def extensions() -> list[dict[str, Any]]:
    """The extensions that are built on demand: what is kept of each, and whether it is loaded."""
    from acpt_trainer.ort import extensions as on_demand
    from acpt_trainer.ort.extensions import store
    from acpt_trainer.ort.extensions.sources import EXTENSIONS

    loaded = on_demand.loaded()
    return [
        {"name": name, "loaded": name in loaded, "built": store.kept(name)} for name in EXTENSIONS
    ]


def self_check() -> dict[str, list[str]]:
    """Trains a small step in ONNX Runtime and compares it with PyTorch's.

    Returns:
        The versions that were never tested, and what differs; both empty where all is well.
    """
    from acpt_trainer.ort import selfcheck

    return {"untested": selfcheck.untested(), "different": selfcheck.check()}


def self_check_problems(outcome: dict[str, list[str]]) -> list[Problem]:
    """What `self_check` found, as problems."""
    return [
        Problem(
            f"ONNX Runtime trains otherwise than PyTorch here: {different}",
            f"self-check with {', '.join(outcome['untested']) or 'the tested versions'}",
            "install the tested versions (pip install 'acpt-trainer[ort]' in a fresh environment), "
            "or use strategy='no_acc' or 'ds'",
        )
        for different in outcome["different"]
    ]
