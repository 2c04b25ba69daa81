"""A small training step compared with PyTorch's, before versions that were never tested are used.

The mends are for versions. Where a newer one does otherwise, this says which part differs before a
model of the user's is trained.
"""

from __future__ import annotations

import copy
import importlib.metadata
import inspect
import logging

import torch
import torch.onnx
from packaging.version import Version
from torch import nn
from torch.nn import functional

from acpt_trainer.errors import ConfigurationError, Problem

logger = logging.getLogger(__name__)

TESTED = {
    "torch": ("2.13", "2.14"),
    "onnx": ("1.17", "2"),
    "onnxruntime-training-cpu": ("1.19.2", "1.19.3"),
    "onnxruntime-training": ("1.19.2", "1.19.3"),
}
"""First version that the mends are tested with, and the first that they are not."""

_checked = False


class _Parts(nn.Module):  # type: ignore[misc]
    """One part a mend: each gives a number, so that the one that differs is known."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8, padding_idx=0)
        self.projections = nn.Linear(8, 24)
        self.norm = nn.LayerNorm(8)
        self.row = nn.Parameter(torch.ones(8))
        self.convolution = nn.Conv1d(8, 8, 3, padding=1, groups=4)
        self.head = nn.Linear(8, 11)

    def forward(self, ids: torch.Tensor, keep: torch.Tensor) -> tuple[torch.Tensor, ...]:
        embedded = self.embedding(ids)
        query, key, value = self.projections(embedded).chunk(3, -1)
        attended = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=keep[:, None, :]
        )
        chosen = torch.where(keep[:, :, None], attended, self.row)
        normed = self.norm(chosen)
        convolved = self.convolution(embedded.transpose(1, 2))
        scores = self.head(normed)
        loss = functional.cross_entropy(scores.flatten(0, 1), ids.flatten(), ignore_index=0)
        return (
            embedded.square().mean(), attended.square().mean(), chosen.square().mean(),
            normed.pow(3).mean(), convolved.square().mean(), loss,
        )  # fmt: skip


PARTS = ("embedding", "attention", "where", "layer norm", "grouped convolution", "cross entropy")


def untested() -> list[str]:
    """The installed packages outside the versions that the mends are tested with."""
    found = []
    for name, (first, beyond) in TESTED.items():
        try:
            here = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if not Version(first) <= Version(Version(here).base_version) < Version(beyond):
            found.append(f"{name} {here} (tested: >={first}, <{beyond})")
    return found


def check() -> list[str]:
    """Trains one step of the parts in ONNX Runtime and in PyTorch.

    Returns:
        What differs, empty where all is as it should be.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(0)
        return _check()


def _check() -> list[str]:
    from acpt_trainer.ort.forward import attach

    export = torch.onnx.export
    reference = _Parts()
    ids = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]])
    model = copy.deepcopy(reference)
    inputs = {"ids": ids, "keep": ids != 0}
    try:
        forward = attach(model)
    except Exception as error:
        return [f"ONNX Runtime cannot be started: {error}"]
    try:
        ours, theirs = model(**inputs), reference(**inputs)
        different = [
            f"the value of {part}"
            for part, a, b in zip(PARTS, ours, theirs, strict=True)
            if not torch.allclose(a, b, rtol=1e-5, atol=1e-6)
        ]
        sum(ours).backward()
        sum(theirs).backward()
        different += [
            f"the gradient of {name}"
            for (name, a), b in zip(model.named_parameters(), reference.parameters(), strict=True)
            if a.grad is None or not torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-6)
        ]
    except Exception as error:
        return [f"the step stopped: {error}"]
    finally:
        forward.release()
    if torch.onnx.export is not export:
        different.append("torch.onnx.export is another function than before")
    return different + _leaks()


def _leaks() -> list[str]:
    """What importing ORTModule replaces for the whole process, unless it is contained."""
    import torch.utils.checkpoint

    functions = {
        "torch.manual_seed": torch.manual_seed,
        "torch.utils.checkpoint.checkpoint": torch.utils.checkpoint.checkpoint,
    }
    return [
        f"{name} is ONNX Runtime's"
        for name, function in functions.items()
        if inspect.unwrap(function).__module__.startswith("onnxruntime")
    ]


def require() -> None:
    """Checks once a process, where a version was never tested, and says so.

    Raises:
        ConfigurationError: If a step differs from PyTorch's.
    """
    global _checked
    strange = untested()
    if _checked or not strange:
        return
    logger.warning(
        "`ort` was never tested with %s; a small step is compared with PyTorch's first",
        ", ".join(strange),
    )
    different = check()
    if different:
        raise ConfigurationError(
            [
                Problem(
                    f"ONNX Runtime trains otherwise than PyTorch here: {'; '.join(different)}",
                    f"self-check with {', '.join(strange)}",
                    "install the tested versions (pip install 'acpt-trainer[ort]' in a fresh "
                    "environment), or use strategy='no_acc' or 'ds'",
                )
            ],
            "Cannot train with strategy 'ort'",
        )
    _checked = True
    logger.warning("the small step is as PyTorch's")
