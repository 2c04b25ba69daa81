"""Fine-tunes in part under the Trainer, method by method, in this process or under torchrun.

Usage: peft_worker.py STRATEGIES FOLDER RESULTS.json, the strategies with commas between them.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft_models import VOCABULARY, bert, gpt2, llama, with_lora
from transformers import TrainerCallback, TrainingArguments

from acpt_trainer import AcceleratedTrainer

STEPS, LENGTH, ROWS = 4, 12, 4


class Samples(torch.utils.data.Dataset):
    """The same random tokens each time, the last ones of some padding; texts or classes."""

    def __init__(self, of_classes: bool) -> None:
        self.of_classes = of_classes

    def __len__(self) -> int:
        return ROWS * STEPS

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(3, VOCABULARY, (LENGTH,), generator=torch.Generator().manual_seed(i))
        mask = (torch.arange(LENGTH) < LENGTH - i % 4).long()
        labels = torch.tensor(i % 3) if self.of_classes else ids.masked_fill(mask == 0, -100)
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}


class Switch(TrainerCallback):
    """Sets the adapters in turn."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        kwargs["model"].set_adapter(("default", "second")[state.global_step % 2])


class Gradients(TrainerCallback):
    """The parameters that had a gradient, by step."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        named = kwargs["model"].named_parameters()
        self.seen.append([name for name, p in named if p.grad is not None])


def lora_of_gpt2() -> Any:
    return with_lora(gpt2(), target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)


def dora_of_llama() -> Any:
    return with_lora(llama(), target_modules=["q_proj", "v_proj"], use_dora=True)


def lora_of_bert() -> Any:
    return with_lora(bert(), task_type="SEQ_CLS")


def frozen_encoder() -> Any:
    model: Any = bert()
    model.bert.requires_grad_(False)
    return model


def two_adapters() -> Any:
    model = lora_of_gpt2()
    model.add_adapter("second", model.peft_config["default"])
    return model


METHODS: dict[str, Callable[[], Any]] = {
    "lora of gpt2": lora_of_gpt2,
    "dora of llama": dora_of_llama,
    "lora of bert": lora_of_bert,
    "frozen encoder": frozen_encoder,
    "two adapters": two_adapters,
}


def of_classes(method: str) -> bool:
    return method in ("lora of bert", "frozen encoder")


def make(method: str) -> Any:
    torch.manual_seed(0)
    return METHODS[method]()


def trainer_for(strategy: str, method: str, folder: Path) -> AcceleratedTrainer:
    model = make(method)
    args = TrainingArguments(
        output_dir=str(folder), max_steps=STEPS, learning_rate=1e-2, logging_steps=1,
        per_device_train_batch_size=ROWS // int(os.environ.get("WORLD_SIZE", "1")),
        save_steps=STEPS // 2, seed=0, report_to=[], disable_tqdm=True, use_cpu=True,
        # Of several processes the Trainer adds losses up, and a classifier's are means.
        average_tokens_across_devices=not of_classes(method),
    )  # fmt: skip
    given: dict[str, Any] = {"callbacks": [Gradients()]}
    if method == "two adapters":
        # The Trainer's own optimizer would have the first adapter alone.
        adapters = [p for n, p in model.named_parameters() if "lora_" in n]
        given["optimizers"] = (torch.optim.AdamW(adapters, lr=1e-2), None)
        given["callbacks"].append(Switch())
    return AcceleratedTrainer(
        model=model, args=args, train_dataset=Samples(of_classes(method)), strategy=strategy,
        **given,
    )  # fmt: skip


def logits(model: Any, method: str) -> torch.Tensor:
    sample = Samples(of_classes(method))[1]
    with torch.no_grad():
        return model.eval()(
            input_ids=sample["input_ids"][None], attention_mask=sample["attention_mask"][None]
        ).logits


def losses(trainer: AcceleratedTrainer) -> dict[int, float]:
    return {x["step"]: x["loss"] for x in trainer.state.log_history if "loss" in x}


def run(strategy: str, method: str, folder: Path) -> dict[str, Any]:
    before = make(method).state_dict()
    trainer = trainer_for(strategy, method, folder)
    trainer.train()
    model: Any = trainer.model
    named = dict(model.named_parameters())
    (gradients,) = (c for c in trainer.callback_handler.callbacks if isinstance(c, Gradients))
    result = {
        "losses": losses(trainer),
        "report": trainer.strategy_report().to_dict(),
        "with_gradient": gradients.seen,
        "trained": [n for n, p in named.items() if p.requires_grad],
        "changed": [n for n, p in named.items() if not torch.equal(p, before[n])],
    }
    if isinstance(model, PeftModel) and method != "two adapters":
        trainer.save_model(str(folder))
        result |= saved(model, method, folder)
    if method == "lora of gpt2":
        again = trainer_for(strategy, method, folder)
        again.train(resume_from_checkpoint=str(folder / f"checkpoint-{STEPS // 2}"))
        result["resumed"] = losses(again)
    return result


def saved(model: Any, method: str, folder: Path) -> dict[str, Any]:
    """What plain PEFT makes of the saved adapter, and the model of its merged weights."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    expected = logits(model, method)
    plain = make(method).unload()  # the base model as it was before PEFT
    loaded = PeftModel.from_pretrained(plain, str(folder))
    merged = model.merge_and_unload()
    return {
        "files": sorted(path.name for path in folder.iterdir() if path.is_file()),
        "loaded": (logits(loaded, method) - expected).abs().max().item(),
        "merged": (logits(merged, method) - expected).abs().max().item(),
    }


def main() -> None:
    warnings.simplefilter("ignore")
    strategies, folder, results = sys.argv[1].split(","), Path(sys.argv[2]), Path(sys.argv[3])
    done = {}
    for strategy in strategies:
        # Which parameters an optimizer holds, DeepSpeed settles before the first step.
        methods = [m for m in METHODS if not (m == "two adapters" and "ds" in strategy)]
        done[strategy] = {m: run(strategy, m, folder / strategy / m) for m in methods}
    if os.environ.get("RANK", "0") == "0":
        results.write_text(json.dumps(done))


if __name__ == "__main__":
    main()
