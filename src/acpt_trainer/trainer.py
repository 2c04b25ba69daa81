"""`Trainer`s whose training step a strategy accelerates; evaluation and saving stay plain."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from transformers import Seq2SeqTrainer, Trainer, TrainerCallback

from acpt_trainer.checkpoints import checkpoint_problems, last_checkpoint, steps_done
from acpt_trainer.errors import ConfigurationError, Problem, raise_if_any
from acpt_trainer.integration import Binding, check_versions, is_sharded
from acpt_trainer.launch import (
    contained_environment,
    foreign_engine_problems,
    join_processes,
    set_up_devices_anew,
)
from acpt_trainer.loss_scale import warn_of_loss_factor
from acpt_trainer.precision import apply_precision, choose_precision, precision_of
from acpt_trainer.registry import resolve_strategy
from acpt_trainer.report import StrategyReport, write_report
from acpt_trainer.strategies.auto import AutoStrategy
from acpt_trainer.strategies.base import AcceleratorStrategy, TrainingContext
from acpt_trainer.throughput import ThroughputCallback, batch_size_and_tokens

if TYPE_CHECKING:
    import torch
    from torch import nn

    from acpt_trainer.auto.verdict import Choice


class VerifyCallback(TrainerCallback):  # type: ignore[misc]
    """Stops training after the first step if the strategy did not run it."""

    def __init__(self, trainer: AcceleratedTrainerMixin) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Asks the strategy."""
        # Anew: a hyper-parameter search makes an accelerator for each trial.
        self.trainer._binding.verify()


class AcceleratedTrainerMixin:
    """Puts a strategy under any `Trainer` subclass.

    `trainer.model` stays the plain model. The hyper-parameters are those of `TrainingArguments`.

    Args:
        *args: Arguments of the `Trainer`.
        strategy: A strategy, or its name for `get_strategy`: `no_acc`, `ort`, `ds`, `ds_ort`, ...
            `auto` becomes the fastest when `train()` begins.
        precision: `auto`, `fp32`, `bf16` or `fp16`; None leaves it to `TrainingArguments`.
        **kwargs: Keyword arguments of the `Trainer`.

    Raises:
        ConfigurationError: If the strategy cannot run as asked; with all problems at once.

    Example:
        >>> class MyTrainer(AcceleratedTrainerMixin, SomeTrainer): ...
        >>> MyTrainer(model=model, args=args, train_dataset=data, strategy="ort").train()
    """

    _choice: Choice | None = None

    def __init__(
        self,
        *args: Any,
        strategy: str | AcceleratorStrategy = "no_acc",
        precision: str | None = None,
        **kwargs: Any,
    ) -> None:
        check_versions()
        self.strategy = resolve_strategy(strategy)
        self._asked_precision = precision
        self._throughput = ThroughputCallback()
        self._throughput.counts_batches = True
        super().__init__(*args, **kwargs)
        self.add_callback(VerifyCallback(self))  # type: ignore[attr-defined]
        self.add_callback(self._throughput)  # type: ignore[attr-defined]

    # --- the seam --------------------------------------------------------------------------------

    def create_accelerator_and_postprocess(self) -> None:
        """Checks and configures, lets `Trainer` build its accelerator, and binds the strategy."""
        precision = self._configure()
        with contained_environment():
            super().create_accelerator_and_postprocess()  # type: ignore[misc]
        self._binding = Binding(
            self.accelerator,  # type: ignore[attr-defined,has-type]
            self.strategy,
            precision,
            owns=self._owns,
        )

    def _owns(self, candidate: Any) -> bool:
        if candidate is not self.model:  # type: ignore[attr-defined]
            return False
        if self.model_init is not None:  # type: ignore[attr-defined]
            # The model did not exist when the rest was checked.
            binding = self._binding
            device, processes = binding.accelerator.device.type, binding.accelerator.num_processes
            context = TrainingContext(binding.precision, device, processes, None, candidate)
            label = self.strategy.label
            raise_if_any(self.strategy.problems(context), f"Cannot train with strategy {label!r}")
        return True

    def _configure(self) -> str:
        args = self.args  # type: ignore[attr-defined]
        _forget_earlier_strategy(args)
        before = {name: getattr(args, name) for name in _CHANGED}
        problems = join_processes(args)
        device = args.device.type
        chosen = choose_precision(self._asked_precision, self.strategy, device)
        problems += apply_precision(args, chosen) if chosen else []
        precision = precision_of(args)
        # ACCELERATE_MIXED_PRECISION sets none of these, and DeepSpeed's "auto" reads them.
        args.bf16, args.fp16 = precision == "bf16", precision == "fp16"
        args.mixed_precision = "no" if precision == "fp32" else precision
        context = TrainingContext(precision, device, args.world_size, args, self.model)  # type: ignore[attr-defined]
        problems += self.strategy.problems(context)
        problems += foreign_engine_problems(self.strategy, args)
        if args.n_gpu > 1:
            problems.append(
                Problem(
                    f"one process sees {args.n_gpu} GPUs, and Trainer would use DataParallel",
                    "the launch command",
                    f"torchrun --nproc_per_node {args.n_gpu} ..., or set CUDA_VISIBLE_DEVICES=0",
                )
            )
        raise_if_any(problems, f"Cannot train with strategy {self.strategy.label!r}")
        self.strategy.configure(args)
        args._acpt_changed = {name: (old, getattr(args, name)) for name, old in before.items()}
        return precision

    # --- training --------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        """Trains as `Trainer.train` does, with the strategy around the step.

        Args:
            resume_from_checkpoint: A checkpoint, or True for the newest complete one.
            **kwargs: See `Trainer.train`.

        Raises:
            ConfigurationError: If the checkpoint cannot be resumed under this strategy.
            NotEngagedError: If the strategy did not run the first step.
            GraphBuildError: If ONNX Runtime cannot train the model.
        """
        if isinstance(self.strategy, AutoStrategy):
            self._settle(self._find_checkpoint(resume_from_checkpoint))
        checkpoint = self._resolve_checkpoint(resume_from_checkpoint)
        # A second `train()` prepares anew, from the plain model: Trainer would keep the DDP or
        # engine of the first, which the strategy has let go of.
        self.model_wrapped = self.model  # type: ignore[attr-defined,has-type]
        warn_of_loss_factor(self)
        try:
            return super().train(resume_from_checkpoint=checkpoint, **kwargs)  # type: ignore[misc]
        finally:
            self._binding.release()

    def _settle(self, checkpoint: str | None) -> None:
        """Becomes a trainer of the strategy that `auto` chooses, as if it had been named."""
        from acpt_trainer.auto.choose import choose
        from acpt_trainer.auto.randomness import kept_random_states

        with kept_random_states():
            self._choice = choose(self, checkpoint)
            self.strategy = resolve_strategy(self._choice.strategy)
            self._asked_precision = self._choice.precision
            self.create_accelerator_and_postprocess()

    def _find_checkpoint(self, asked: Any) -> str | None:
        if asked is None or asked is False:
            return None
        if asked is not True:
            return str(asked)
        folder = self.args.output_dir  # type: ignore[attr-defined]
        found = last_checkpoint(folder)
        if found is None:
            raise ConfigurationError(
                [
                    Problem(
                        "there is no complete checkpoint to resume from",
                        f"output_dir={folder!r}",
                        "train without resuming, or name a checkpoint folder",
                    )
                ],
                "Cannot resume",
            )
        return found

    def _resolve_checkpoint(self, asked: Any) -> str | None:
        found, args = self._find_checkpoint(asked), self.args  # type: ignore[attr-defined]
        if found is None:
            return None
        problems = checkpoint_problems(found, self.strategy, args.world_size)
        if not problems and 0 < args.max_steps <= steps_done(found):
            # `Trainer` would train a step more before it looks.
            problems.append(
                Problem(
                    f"the checkpoint has {steps_done(found)} steps behind it, and max_steps is "
                    f"{args.max_steps}: nothing is left to train",
                    found,
                    "raise max_steps, or use the model in the checkpoint as it is",
                )
            )
        raise_if_any(problems, "Cannot resume")
        return found

    def training_step(
        self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """Counts what the batch holds and runs the step."""
        main_input = getattr(self.model, "main_input_name", "input_ids")  # type: ignore[attr-defined]
        self._throughput.meter.count(*batch_size_and_tokens(inputs, main_input))
        return super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc,no-any-return]

    # --- evaluation and saving -------------------------------------------------------------------

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluates on the plain model, before training too.

        Before `train()` `Trainer` would start a DeepSpeed engine for inference, which exists for
        ZeRO-3 alone. Stages 1 and 2 keep the model whole in every process.
        """
        with self._without_idle_engine() as idle:
            if idle:  # the engine would have moved it
                self.model.to(self.args.device)  # type: ignore[attr-defined]
            return super().evaluation_loop(*args, **kwargs)  # type: ignore[misc]

    @contextlib.contextmanager
    def _without_idle_engine(self) -> Iterator[bool]:
        """Keeps `Trainer` from asking for an engine or shards that no `train()` has made yet."""
        deepspeed, fsdp = self.is_deepspeed_enabled, self.is_fsdp_enabled  # type: ignore[has-type]
        plain = self.deepspeed is None and not is_sharded(self.model)  # type: ignore[attr-defined]
        if plain:
            self.is_deepspeed_enabled = self.is_fsdp_enabled = False
        try:
            yield plain and (deepspeed or fsdp)
        finally:
            self.is_deepspeed_enabled, self.is_fsdp_enabled = deepspeed, fsdp

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the plain model, with `strategy.json` beside it."""
        with self._without_idle_engine():
            super().save_model(output_dir, _internal_call=_internal_call)  # type: ignore[misc]
        folder = output_dir or self.args.output_dir  # type: ignore[attr-defined]
        if self.args.should_save and os.path.isdir(folder):  # type: ignore[attr-defined]
            write_report(self.strategy_report(), folder)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds the stable throughput to what `train()` logs last and returns."""
        if "train_runtime" in logs:
            logs.update(self._throughput.meter.metrics())
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def strategy_report(self) -> StrategyReport:
        """What really ran, not what was asked."""
        report = self._binding.report()
        return report if self._choice is None else self._choice.noted(report)


class AcceleratedTrainer(AcceleratedTrainerMixin, Trainer):  # type: ignore[misc]
    """`transformers.Trainer` with a strategy; see `AcceleratedTrainerMixin`."""


class AcceleratedSeq2SeqTrainer(AcceleratedTrainerMixin, Seq2SeqTrainer):  # type: ignore[misc]
    """`transformers.Seq2SeqTrainer` with a strategy; see `AcceleratedTrainerMixin`."""


# What a strategy may change in training arguments.
_CHANGED = ("bf16", "fp16", "mixed_precision", "deepspeed", "deepspeed_plugin", "fsdp_plugin_args")


def _forget_earlier_strategy(args: Any) -> None:
    """Lets the same training arguments serve one trainer after another, each with its strategy.

    What an earlier strategy set is taken back, and what the user set since is kept.
    """
    earlier = vars(args).pop("_acpt_changed", None)
    if earlier is None:
        return
    for name, (before, after) in earlier.items():
        if getattr(args, name) is after or getattr(args, name) == after:
            setattr(args, name, before)
    set_up_devices_anew(args)
