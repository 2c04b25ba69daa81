"""What really ran: the report of a strategy, and the `strategy.json` beside every checkpoint."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

STRATEGY_FILE = "strategy.json"

_DISTRIBUTIONS = (
    "acpt-trainer",
    "torch",
    "transformers",
    "accelerate",
    "deepspeed",
    "onnxruntime-training",
    "onnxruntime-training-cpu",
)


@dataclass(frozen=True)
class StrategyReport(Mapping[str, Any]):
    """What really ran. Readable when printed, a mapping for code, JSON for files.

    Attributes:
        strategy: Name of the strategy.
        status: `pending`, `engaged` or `fell_back`.
        reason: Why it is not engaged.
        precision: `fp32`, `bf16` or `fp16`.
        device: Type of the device.
        world_size: Number of processes.
        parallel: Class of the prepared model: the model's own, or what distributes it.
        options: Options of the strategy.
        evidence: What was measured in the first step and since.
        optimizer_state_bytes: Bytes of optimizer state that this process holds.
        checkpoint_format: Which strategies can resume the checkpoint.
        versions: Versions of what took part.
        asked: The name that was asked for, where it stands for whatever is chosen: `auto`.
        choice: How it was chosen; empty where it was named.
    """

    strategy: str
    status: str
    reason: str | None
    precision: str
    device: str
    world_size: int
    parallel: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)
    optimizer_state_bytes: int = 0
    checkpoint_format: str = "torch"
    versions: dict[str, str] = field(default_factory=dict)
    asked: str | None = None
    choice: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Any:
        if key not in self.__dataclass_fields__:
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dataclass_fields__)

    def __len__(self) -> int:
        return len(self.__dataclass_fields__)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        asked = f" (asked for: {self.asked})" if self.asked else ""
        head = (
            f"strategy {self.strategy}{asked}: {self.status} "
            f"({self.precision} on {self.device}, {self.world_size} process"
            f"{'' if self.world_size == 1 else 'es'})"
        )
        lines = [head] + ([f"  reason: {self.reason}"] if self.reason else [])
        for name, value in self.evidence.items():
            if isinstance(value, Mapping) and name not in ("fused_ops", "aten_ops"):
                lines.append(f"  {name}:")
                lines += [f"    {k}: {_short(v)}" for k, v in value.items()]
            else:
                lines.append(f"  {name}: {_short(value)}")
        if self.choice:
            lines.append(f"  chosen: {self.choice['why']} ({self.choice['source']})")
            lines += [f"    {line}" for line in self.choice["table"]]
        return "\n".join(lines)


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} x{v}" for k, v in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def versions() -> dict[str, str]:
    """Versions of Python and of every package that may take part, as far as installed."""
    found = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_report(report: StrategyReport, folder: str | os.PathLike[str]) -> Path:
    """Writes `strategy.json` into a model folder or checkpoint, whole or not at all.

    Args:
        report: The report.
        folder: An existing folder.

    Returns:
        The file's path.
    """
    path = Path(folder) / STRATEGY_FILE
    partial = path.with_suffix(f".json.{os.getpid()}.part")
    try:
        partial.write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def read_report(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Reads `strategy.json` of a checkpoint.

    Args:
        folder: The checkpoint.

    Returns:
        The report as plain data; None if there is none or it cannot be read.
    """
    try:
        loaded = json.loads((Path(folder) / STRATEGY_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return loaded if isinstance(loaded, dict) else None
