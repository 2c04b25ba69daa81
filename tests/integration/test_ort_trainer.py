"""What a user changes of the Trainer's loss and steps, under `ort`: the losses of `no_acc`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import TrainingArguments
from worker import Tokens, make_model

from acpt_trainer import AcceleratedTrainer

STEPS = 3


def arguments(folder: Path, **more: Any) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, per_device_train_batch_size=2, report_to=[],
        disable_tqdm=True, logging_steps=1, save_strategy="no", seed=0, learning_rate=1e-2,
        **more,
    )  # fmt: skip


def summed(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
    """A loss of the user's, outside the graph: positions weigh more and more."""
    logits, targets = outputs["logits"][:, :-1], labels[:, 1:]
    each = functional.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
    weights = torch.linspace(0.5, 1.5, each.shape[1])
    return (each * weights).sum() / (num_items_in_batch or targets.numel())


class OwnLoss(AcceleratedTrainer):
    """Its loss is computed from the logits of a call without labels."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        labels = inputs.pop("labels")
        return summed(model(**inputs), labels)


class Twice(AcceleratedTrainer):
    """Calls the model twice before each backward pass, as R-Drop and contrastive losses do."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        labels = inputs.pop("labels")
        one, two = model(**inputs), model(**{k: v[:, 2:] for k, v in inputs.items()})
        apart = (one.logits[:, 2:] - two.logits).pow(2).mean()
        return summed(one, labels) + summed(two, labels[:, 2:]) + apart


class Evaluating(AcceleratedTrainer):
    """Evaluates in the middle, with other shapes; the metric is in the losses' place."""

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().training_step(*args, **kwargs)
        metrics = self.evaluate(Tokens(6 + self.state.global_step))
        self.model.train()
        return loss + metrics["eval_loss"]


CASES: dict[str, tuple[type[AcceleratedTrainer], dict[str, Any], dict[str, Any]]] = {
    "compute_loss_func": (
        AcceleratedTrainer,
        {"gradient_accumulation_steps": 2},
        {"compute_loss_func": summed},
    ),
    "items of the batch": (AcceleratedTrainer, {"gradient_accumulation_steps": 2}, {}),
    "label smoothing": (AcceleratedTrainer, {"label_smoothing_factor": 0.1}, {}),
    "own compute_loss": (OwnLoss, {}, {}),
    "two forwards": (Twice, {"gradient_accumulation_steps": 2}, {}),
    "evaluation between": (Evaluating, {"per_device_eval_batch_size": 3}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_losses_and_weights_are_those_of_no_acc(tmp_path: Path, case: str) -> None:
    kind, args, more = CASES[case]
    runs: dict[str, list[float]] = {}
    weights: dict[str, list[torch.Tensor]] = {}
    for strategy in ("no_acc", "ort"):
        trainer = kind(
            model=make_model({}), args=arguments(tmp_path, **args), train_dataset=Tokens(64),
            strategy=strategy, **more,
        )  # fmt: skip
        trainer.train()
        history = trainer.state.log_history
        runs[strategy] = [x["loss"] for x in history if "loss" in x]
        weights[strategy] = [p.detach().clone() for p in trainer.model.parameters()]
        assert trainer.strategy_report().status == "engaged"

    calls = STEPS * args.get("gradient_accumulation_steps", 1) * (2 if kind is Twice else 1)
    assert trainer.strategy_report()["evidence"]["forward_calls"] == calls
    assert len(runs["ort"]) == STEPS
    assert runs["ort"] == pytest.approx(runs["no_acc"], rel=1e-5)
    for ours, theirs in zip(weights["ort"], weights["no_acc"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-4)
