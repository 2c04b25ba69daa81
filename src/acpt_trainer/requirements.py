"""Which packages a strategy needs, found without importing them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
from dataclasses import dataclass
from typing import Any

from acpt_trainer.errors import Problem


@dataclass(frozen=True)
class Requirement:
    """A package that a strategy needs.

    Attributes:
        module: Module that must be importable, such as `onnxruntime.training`.
        distributions: Names on the package index, any of which provides it.
        extra: The extra of this package that installs it.
    """

    module: str
    distributions: tuple[str, ...]
    extra: str

    def installed(self) -> bool:
        """Whether the module can be found; imports at most its parent packages' specs."""
        parent, _, leaf = self.module.partition(".")
        spec = importlib.util.find_spec(parent)
        if spec is None or not leaf:
            return spec is not None
        # Not find_spec(module): that would import the parent, and ONNX Runtime patches torch.
        path = os.path.join(*leaf.split("."))
        return any(
            os.path.isdir(os.path.join(folder, path))
            or os.path.isfile(os.path.join(folder, f"{path}.py"))
            for folder in spec.submodule_search_locations or ()
        )

    def version(self) -> str | None:
        """The installed version, or None."""
        for name in self.distributions:
            try:
                return importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        return None

    def problem(self, strategy: str) -> Problem:
        """The problem that it is missing.

        Args:
            strategy: Name of the strategy that needs it.
        """
        return Problem(
            f"strategy {strategy!r} needs the package {self.distributions[0]!r}, "
            "which is not installed",
            f"strategy={strategy!r}",
            f"pip install 'acpt-trainer[{self.extra}]'",
        )


def import_deepspeed() -> Any:
    """Imports DeepSpeed and keeps it to warnings: it logs every setting on every rank.

    Returns:
        The module.

    Raises:
        ImportError: If it is not installed.
    """
    import torch

    if not torch.cuda.is_available():
        # Else it looks for every kind of accelerator first and says that it found none.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    return deepspeed
