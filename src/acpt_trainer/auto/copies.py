"""A trainer that trains a few steps on batches that it was given, and nothing else.

One of the modules that know `Trainer`'s internals: a copy keeps what decides how a step is computed
(model, loss, optimizer, arguments, the user's own attributes) and leaves out what belongs to the
process or the run.
"""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from acpt_trainer.auto.candidates import Candidate

_LEFT_OUT = (
    "accelerator", "_binding", "gather_function", "callback_handler", "_throughput", "strategy",
    "train_dataset", "eval_dataset", "_eval_dataloaders", "data_collator", "compute_metrics",
    "preprocess_logits_for_metrics", "model_wrapped", "deepspeed", "lr_scheduler", "model_init",
    "state", "control", "_choice", "_memory_tracker",
)  # fmt: skip

_QUIET: dict[str, Any] = {
    "save_strategy": "no", "eval_strategy": "no", "logging_strategy": "no", "report_to": [],
    "disable_tqdm": True, "do_eval": False, "eval_on_start": False, "logging_first_step": False,
    "load_best_model_at_end": False, "push_to_hub": False, "auto_find_batch_size": False,
    "skip_memory_metrics": True, "ignore_data_skip": False,
}  # fmt: skip


@dataclass
class Kit:
    """All that a trial needs, copied for each and never trained itself.

    Attributes:
        trainer: From `stripped`.
        batches: Batches of this process.
        candidates: Those to try.
        steps: Steps to measure.
        folder: Where the reference's gradients are kept.
    """

    trainer: Any
    batches: list[Any]
    candidates: list[Candidate]
    steps: int
    folder: str


def stripped(trainer: Any, folder: Path) -> Any:
    """The trainer without what belongs to this process and to the run; it shares the model.

    Args:
        trainer: The trainer.
        folder: For whatever its class writes.
    """
    bare = copy.copy(trainer)
    for name in _LEFT_OUT:
        bare.__dict__[name] = None
    bare.args = copy.copy(trainer.args)
    for name, value in _QUIET.items():
        setattr(bare.args, name, value)
    bare.args.output_dir = str(folder / "output")
    return bare


def set_going(kit: Kit, candidate: Candidate, steps: int) -> Any:
    """Makes a copy of the stripped trainer ready to train under a candidate.

    Args:
        kit: A copy of the kit, which is used up.
        candidate: What it trains under.
        steps: Optimizer steps.

    Raises:
        ConfigurationError: If it cannot run.
    """
    from transformers import TrainerControl, TrainerState
    from transformers.trainer_callback import CallbackHandler, DefaultFlowCallback
    from transformers.trainer_utils import TrainerMemoryTracker

    from acpt_trainer.throughput import ThroughputCallback

    trainer = kit.trainer
    trainer.args.max_steps = steps
    trainer.strategy = candidate.build()
    trainer._asked_precision = candidate.precision
    trainer._throughput = ThroughputCallback()
    trainer._memory_tracker = TrainerMemoryTracker(skip_memory_metrics=True)
    trainer.control, trainer.state = TrainerControl(), TrainerState()
    trainer.callback_handler = CallbackHandler(
        [DefaultFlowCallback()], trainer.model, None, trainer.optimizer, None
    )
    trainer.log = lambda *args, **kwargs: None
    loader = _loader(kit.batches, steps * trainer.args.gradient_accumulation_steps)
    trainer.get_train_dataloader = lambda: loader
    trainer.create_accelerator_and_postprocess()
    return trainer


def _loader(batches: list[Any], count: int) -> Any:
    """A loader of so many batches, from the first again when they end."""
    from torch.utils.data import DataLoader

    rows: Any = list(itertools.islice(itertools.cycle(batches), count))
    return DataLoader(rows, batch_size=None, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> Any:
    return batch
