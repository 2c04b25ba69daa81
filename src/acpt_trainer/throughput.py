"""Throughput that a user can compare: without the first steps, evaluation and saving."""

from __future__ import annotations

import time
from array import array
from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback

WARMUP_STEPS = 5


class ThroughputMeter:
    """Counts samples, tokens and seconds per optimizer step.

    The first steps hold the export, compilation, memory allocation and caches' warm-up, and are
    left out. Waiting for data counts; evaluating, saving and logging do not.

    Args:
        warmup_steps: Steps to leave out; with fewer than twice as many steps in all, half of them.
        world_size: Processes, each of which trains on as much as this one.
    """

    def __init__(self, warmup_steps: int = WARMUP_STEPS, world_size: int = 1) -> None:
        if warmup_steps < 0:
            raise ValueError(f"warmup_steps is {warmup_steps}; it may not be negative")
        self.warmup_steps = warmup_steps
        self.world_size = world_size
        self.seconds = array("d")
        self.samples = array("q")
        self.tokens = array("q")
        self._mark: float | None = None
        self._samples = self._tokens = 0

    def count(self, samples: int, tokens: int) -> None:
        """Adds what one micro-batch of this process holds."""
        self._samples += samples
        self._tokens += tokens

    def mark(self) -> None:
        """Starts measuring from now: at the start and after evaluating, saving or logging."""
        self._mark = time.perf_counter()

    def step(self) -> None:
        """Closes an optimizer step."""
        now = time.perf_counter()
        if self._mark is not None:
            self.seconds.append(now - self._mark)
            self.samples.append(self._samples)
            self.tokens.append(self._tokens)
        self._mark = now
        self._samples = self._tokens = 0

    @property
    def excluded(self) -> int:
        """How many steps are left out."""
        steps = len(self.seconds)
        return self.warmup_steps if steps >= 2 * self.warmup_steps else steps // 2

    def metrics(self) -> dict[str, float]:
        """Samples and tokens per second over all processes.

        Returns:
            `stable_train_samples_per_second`, `stable_train_tokens_per_second` (if tokens were
            counted), `stable_train_steps`, `warmup_steps_excluded`, `first_step_seconds` and
            `stable_step_seconds` (median). Empty before the first step.
        """
        if not self.seconds:
            return {}
        skip = self.excluded
        durations = sorted(self.seconds[skip:])
        total = sum(durations) or float("inf")
        out = {
            "stable_train_samples_per_second": sum(self.samples[skip:]) * self.world_size / total,
            "stable_train_steps": len(durations),
            "warmup_steps_excluded": skip,
            "first_step_seconds": self.seconds[0],
            "stable_step_seconds": durations[len(durations) // 2],
        }
        if any(self.tokens):
            out["stable_train_tokens_per_second"] = (
                sum(self.tokens[skip:]) * self.world_size / total
            )
        return {name: round(value, 4) for name, value in out.items()}


class ThroughputCallback(TrainerCallback):  # type: ignore[misc]
    """Measures throughput in any `Trainer` and adds it to the metrics of `train()`.

    `AcceleratedTrainer` has one already and counts what its batches hold. In another `Trainer`
    samples are counted from the arguments, and tokens if `include_num_input_tokens_seen` is set.

    Args:
        warmup_steps: Steps to leave out.
    """

    def __init__(self, warmup_steps: int = WARMUP_STEPS) -> None:
        self.warmup_steps = warmup_steps
        self.meter = ThroughputMeter(warmup_steps)
        self.counts_batches = False
        self._tokens_seen = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts anew with each `train()`."""
        self.meter = ThroughputMeter(self.warmup_steps, args.world_size)
        self._tokens_seen = state.num_input_tokens_seen
        self.meter.mark()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Closes a step, once the device has finished it where that matters."""
        # Where the stable window may begin, and where it ends.
        step = len(self.meter.seconds) + 1
        if step <= self.warmup_steps or state.global_step >= state.max_steps:
            _synchronize(args.device)
        if not self.counts_batches:
            seen = state.num_input_tokens_seen - self._tokens_seen
            self._tokens_seen = state.num_input_tokens_seen
            self.meter.count(
                args.per_device_train_batch_size * args.gradient_accumulation_steps,
                seen // args.world_size,
            )
        self.meter.step()

    def _resume(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.meter.mark()

    on_evaluate = on_save = _resume

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Adds the metrics to the last log of `train()`, which becomes its result."""
        if logs and "train_runtime" in logs:
            logs.update(self.meter.metrics())
        self.meter.mark()


def batch_size_and_tokens(inputs: Any, main_input: str = "input_ids") -> tuple[int, int]:
    """How many samples and tokens a batch of model inputs holds.

    Args:
        inputs: The model's inputs by name.
        main_input: Name of the main input; shape (batch, ...).

    Returns:
        Samples, and tokens with padding (0 if the main input holds no token ids).
    """
    if not isinstance(inputs, Mapping):
        return 0, 0
    main = inputs.get(main_input)
    if not hasattr(main, "shape"):
        main = next((v for v in inputs.values() if getattr(v, "ndim", 0) > 0), None)
    if main is None:
        return 0, 0
    ids = main.ndim == 2 and not main.is_floating_point()
    return int(main.shape[0]), int(main.numel()) if ids else 0


def _synchronize(device: Any) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
