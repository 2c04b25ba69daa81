"""Verdicts of earlier runs, one JSON file each, beside the cache of exports."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import acpt_trainer
from acpt_trainer.auto.candidates import Candidate
from acpt_trainer.auto.data import shapes
from acpt_trainer.auto.verdict import Row
from acpt_trainer.measure.mailbox import write_json
from acpt_trainer.ort.cache_dir import cache_dir
from acpt_trainer.strategies.auto import AutoStrategy

_ARGUMENTS = (
    "gradient_accumulation_steps", "per_device_train_batch_size", "optim", "optim_args",
    "optim_target_modules", "activation_checkpointing", "activation_checkpointing_kwargs",
    "gradient_checkpointing", "gradient_checkpointing_kwargs", "max_grad_norm",
    "label_smoothing_factor", "neftune_noise_alpha", "use_liger_kernel", "tf32", "ddp_backend",
    "ddp_bucket_cap_mb",
    "ddp_find_unused_parameters", "ddp_static_graph", "average_tokens_across_devices",
    "full_determinism",
)  # fmt: skip
"""Training arguments that change how a step is computed."""

_VARIABLES = ("ORTMODULE_", "TORCH_", "TORCHDYNAMO_", "TORCHINDUCTOR_", "DS_", "MKL_", "KMP_")
"""Beginnings of the names of variables that change how fast one is."""


class Store:
    """The verdict on one question: model, shapes, arguments, machine, versions.

    Args:
        auto: The strategy.
        trainer: The trainer.
        batches: What was read of its data.
        candidates: Those to try.

    Raises:
        OSError: If the folder cannot be made.
    """

    def __init__(
        self,
        auto: AutoStrategy,
        trainer: Any,
        batches: Sequence[Any],
        candidates: Sequence[Candidate],
    ) -> None:
        root = None if isinstance(auto.cache, bool) else auto.cache
        asked = question(auto, trainer, batches, candidates)
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True, default=repr).encode())
        self.path: Path = cache_dir("verdicts", root) / f"{digest.hexdigest()[:32]}.json"

    def read(self) -> tuple[list[Row], str] | None:
        """The rows of an earlier run and when they were measured; None where there are none."""
        try:
            kept = json.loads(self.path.read_text(encoding="utf-8"))
            return [Row(**row) for row in kept["rows"]], str(kept["measured"])
        except (OSError, ValueError, TypeError, KeyError):
            return None  # none yet, torn, or of another version

    def write(self, rows: Sequence[Row]) -> None:
        """Keeps the rows."""
        measured = time.strftime("%Y-%m-%d %H:%M:%S")
        write_json(self.path, {"measured": measured, "rows": [asdict(row) for row in rows]})


def question(
    auto: AutoStrategy, trainer: Any, batches: Sequence[Any], candidates: Sequence[Candidate]
) -> dict[str, Any]:
    """All that a verdict depends on."""
    from acpt_trainer.measure.machine import machine

    model, args = trainer.model, trainer.args
    config: Any = getattr(model, "config", None)
    here = machine()
    here.pop("memory_gb")
    classes = [c.spec.load() for c in candidates]
    code = [
        *type(trainer).__mro__,
        trainer.compute_loss_func,
        *classes,
        *map(type, model.modules()),
    ]
    return {
        "trainer": _name(type(trainer)),
        "loss": _name(trainer.compute_loss_func) if trainer.compute_loss_func else None,
        "optimizer": repr(trainer.optimizer_cls_and_kwargs or type(trainer.optimizer)),
        "model": [_name(type(module)) for module in model.modules()],
        "settings": repr(model),
        "config": config.to_dict() if hasattr(config, "to_dict") else None,
        "attention": getattr(config, "_attn_implementation", None),  # which `to_dict` leaves out
        "parameters": [
            (name, list(p.shape), str(p.dtype), p.requires_grad)
            for name, p in model.named_parameters()
        ],
        "batches": shapes(batches),
        "arguments": {name: getattr(args, name, None) for name in _ARGUMENTS},
        "candidates": [(c.label, _name(c.spec.load()), repr(c.spec.preset)) for c in candidates],
        "code": _digest([*Path(acpt_trainer.__file__).parent.rglob("*.py"), *_files(code)]),
        "variables": {  # PyTorch itself names a folder at the first compilation
            k: v
            for k, v in sorted(os.environ.items())
            if k.startswith(_VARIABLES) and not k.endswith("_DIR")
        },
        "budget": auto.budget,
        "steps": auto.steps,
        "processes": args.world_size,
        "device": args.device.type,
        "machine": here,
    }


def _name(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', type(thing))}"


def _files(things: Iterable[Any]) -> set[Path]:
    """Where classes and functions are defined, as far as that is in files."""
    modules = (sys.modules.get(getattr(thing, "__module__", None) or "") for thing in things)
    named = (getattr(module, "__file__", None) for module in modules)
    return {Path(name) for name in named if name and os.path.isfile(name)}


def _digest(files: Iterable[Path]) -> str:
    """Of what is in files: an edit is no new version."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.as_posix().encode() + path.read_bytes())
    return digest.hexdigest()
