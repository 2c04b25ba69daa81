"""A model that is slow unless a strategy makes it quick, and strategies that differ in that.

Importable, so that a process of its own finds the classes, and the clock that trials look at there.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar

import torch
from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

from acpt_trainer import AcceleratedTrainer, AcceleratorStrategy, Layer, StrategyStatus
from acpt_trainer.auto import tries

VOCABULARY, LENGTH = 96, 16


class Clock:
    """Time as these trials have it, on a busy machine too: what is slept, and a look each."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 1e-3
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


CLOCK = tries.time = Clock()  # type: ignore[assignment]


class Sleepy(GPT2LMHeadModel):
    """A GPT-2 that sleeps in PyTorch: whatever does not run its forward pass there is faster."""

    nap = 0.1

    def forward(self, input_ids: Any = None, labels: Any = None, **options: Any) -> Any:
        CLOCK.sleep(self.nap)
        return super().forward(input_ids=input_ids, labels=labels, **options)


class Quick(AcceleratorStrategy):
    """Keeps the model awake."""

    name: ClassVar[str] = "quick"
    layer: ClassVar[Layer] = Layer.MODULE
    nap = 0.0

    def precisions(self, device: str) -> tuple[str, ...]:
        return ("fp32",)

    def wrap_model(self, model: Any) -> Any:
        model.nap = self.nap
        return model

    def status(self) -> StrategyStatus:
        return StrategyStatus.engaged({"nap": self.nap})


class Slow(Quick):
    """Lets the model sleep longer."""

    name: ClassVar[str] = "slow"
    nap = 0.3


class Wrong(Quick):
    """Doubles the gradient of one parameter."""

    name: ClassVar[str] = "wrong"

    def wrap_model(self, model: Any) -> Any:
        model.transformer.wpe.weight.register_hook(lambda gradient: 2 * gradient)
        return super().wrap_model(model)


class Raises(Quick):
    """Cannot be put around a model."""

    name: ClassVar[str] = "raises"

    def wrap_model(self, model: Any) -> Any:
        raise ValueError("no way around it")


class Crashes(Quick):
    """Ends its process."""

    name: ClassVar[str] = "crashes"

    def wrap_model(self, model: Any) -> Any:
        print("a cry for help", flush=True)
        os._exit(7)


class HalfCrashes(Quick):
    """Ends one of several processes."""

    name: ClassVar[str] = "half_crashes"

    def wrap_model(self, model: Any) -> Any:
        if os.environ.get("RANK") == "1":
            os._exit(7)
        return super().wrap_model(model)


MADE_UP = (Quick, Slow, Wrong, Raises, Crashes, HalfCrashes)


def rows(count: int = 64) -> list[dict[str, torch.Tensor]]:
    """Rows of random tokens, the same each time."""
    drawn = torch.Generator().manual_seed(1)
    ids = torch.randint(0, VOCABULARY, (count, LENGTH), generator=drawn)
    return [{"input_ids": row, "labels": row} for row in ids]


def trainer(strategy: Any, output: Any, **options: Any) -> AcceleratedTrainer:
    """A trainer of a small model with dropout."""
    precision, data = options.pop("precision", None), options.pop("data", None)
    config = GPT2Config(
        n_layer=1, n_head=2, n_embd=16, vocab_size=VOCABULARY, n_positions=LENGTH, bos_token_id=0,
        eos_token_id=0, attn_pdrop=0.1, resid_pdrop=0.1, embd_pdrop=0.1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Sleepy(config)
    optimizer = options.pop("optimizer", None)
    given = {
        "max_steps": 6, "per_device_train_batch_size": 4, "save_strategy": "no", "report_to": [],
        "logging_steps": 1, "disable_tqdm": True, "use_cpu": True, **options,
    }  # fmt: skip
    return AcceleratedTrainer(
        model=model, args=TrainingArguments(str(output), **given),
        train_dataset=rows() if data is None else data, strategy=strategy, precision=precision,
        optimizers=(optimizer and optimizer(model.parameters()), None),
    )  # fmt: skip


def losses(trained: AcceleratedTrainer) -> list[float]:
    """The loss of each step, not rounded."""
    return [entry["loss"] for entry in trained.state.log_history if "loss" in entry]
