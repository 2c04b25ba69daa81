"""Where the model is in the folder that Azure ML mounts; found without torch."""

from __future__ import annotations

from pathlib import Path


def find_model(root: Path) -> Path:
    """Finds the model's folder below the one that Azure ML mounts.

    Its depth there depends on how the model was registered, so it is looked for: the uppermost
    folder with a `config.json` and weights in safetensors. Checkpoints of the training are none.

    Raises:
        ValueError: If there is no such folder, or more than one.
    """
    found: dict[int, list[Path]] = {}
    for config in sorted(root.rglob("config.json")):
        parts = config.parent.relative_to(root).parts
        if any(part.startswith("checkpoint") for part in parts):
            continue
        if any(config.parent.glob("*.safetensors")):
            found.setdefault(len(parts), []).append(config.parent)
    if not found:
        raise ValueError(f"{root} holds no folder with config.json and *.safetensors")
    uppermost = found[min(found)]
    if len(uppermost) > 1:
        raise ValueError(f"{root} holds several models: {', '.join(map(str, uppermost))}")
    return uppermost[0]
