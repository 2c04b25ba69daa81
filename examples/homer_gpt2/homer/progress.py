"""One readable line each time the loss is logged, on the first process alone."""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback


class LossLines(TrainerCallback):
    """Prints step, loss, learning rate and the time left."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._first_step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts the clock."""
        self._started, self._first_step = time.perf_counter(), state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Prints what was logged."""
        if not state.is_world_process_zero or not logs:
            return
        at = f"step {state.global_step:>5}/{state.max_steps}"
        if "loss" in logs:
            done = state.global_step - self._first_step
            seconds = time.perf_counter() - self._started
            left = seconds / max(1, done) * (state.max_steps - state.global_step)
            rate = f"learning rate {logs['learning_rate']:.2e}"
            print(f"{at}  loss {logs['loss']:.4f}  {rate}  about {left:,.0f} s left", flush=True)
        elif "eval_loss" in logs:
            print(f"{at}  validation loss {logs['eval_loss']:.4f}", flush=True)
