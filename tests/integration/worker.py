"""Trains a tiny GPT-2 in this process (or these, under torchrun), scenario by scenario.

Usage: worker.py STRATEGY SCENARIOS.json RESULTS.json
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, TrainingArguments

from acpt_trainer import AcceleratedTrainer

VOCABULARY, LENGTH = 96, 16


class Tokens(torch.utils.data.Dataset):
    """The same random tokens each time; the last ones of some samples are padding."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        ids = torch.randint(0, VOCABULARY, (LENGTH,), generator=torch.Generator().manual_seed(i))
        mask = torch.ones_like(ids)
        mask[LENGTH - i % 4 :] = 0
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": ids.masked_fill(mask == 0, -100),
        }


def make_model(scenario: dict[str, Any]) -> Any:
    if "init_from" in scenario:
        return AutoModelForCausalLM.from_pretrained(scenario["init_from"])
    drop = scenario.get("dropout", 0.0)
    config = GPT2Config(
        n_layer=2, n_head=2, n_embd=32, vocab_size=VOCABULARY, n_positions=LENGTH,
        attn_pdrop=drop, resid_pdrop=drop, embd_pdrop=drop, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    config._attn_implementation = scenario.get("attention", "sdpa")
    torch.manual_seed(0)
    return GPT2LMHeadModel(config)


def run(strategy: str, scenario: dict[str, Any]) -> dict[str, Any]:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    steps = scenario.get("steps", 20)
    saves = scenario.get("save_steps")
    args = TrainingArguments(
        output_dir=scenario["output_dir"],
        per_device_train_batch_size=scenario.get("batch", 8) // world,
        gradient_accumulation_steps=scenario.get("accumulation", 1),
        max_steps=steps,
        learning_rate=1e-3,
        lr_scheduler_type="linear",
        warmup_steps=2,
        weight_decay=0.01,
        label_smoothing_factor=scenario.get("label_smoothing", 0.0),
        bf16=scenario.get("bf16", False),
        use_cpu=scenario.get("bf16", False),
        save_strategy="steps" if saves else "no",
        save_steps=saves or 500,
        logging_steps=1,
        seed=0,
        report_to=[],
        disable_tqdm=True,
    )
    model = make_model(scenario)
    trainer = AcceleratedTrainer(
        model=model, args=args, train_dataset=Tokens(256), eval_dataset=Tokens(32),
        strategy=strategy,
    )  # fmt: skip
    before = trainer.evaluate()["eval_loss"] if scenario.get("evaluate_first") else None
    result = trainer.train(resume_from_checkpoint=scenario.get("resume_from"))
    evaluation = trainer.evaluate()["eval_loss"]
    if scenario.get("save"):
        trainer.save_model(scenario["output_dir"])
    prompt = torch.tensor([[1, 2, 3]])
    generated = trainer.model.generate(prompt, max_new_tokens=4, do_sample=False, pad_token_id=0)
    return {
        "losses": [[x["step"], x["loss"]] for x in trainer.state.log_history if "loss" in x],
        "report": trainer.strategy_report().to_dict(),
        "metrics": result.metrics,
        "eval_before": before,
        "eval_loss": evaluation,
        "generated": generated[0].tolist(),
        "model_class": type(trainer.model).__name__,
        "forward_is_plain": "forward" not in vars(trainer.model)
        or type(vars(trainer.model)["forward"]).__name__ != "OrtForward",
        "norms": {n: whole(p).norm().item() for n, p in trainer.model.named_parameters()},
    }


def whole(parameter: torch.Tensor) -> torch.Tensor:
    """A parameter, gathered from all processes where it is sharded."""
    gather = getattr(parameter, "full_tensor", parameter.detach)
    return gather().detach()


def main() -> None:
    warnings.simplefilter("ignore")
    strategy, scenarios, results = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    done = {}
    for name, scenario in json.loads(scenarios.read_text()).items():
        done[name] = run(strategy, scenario)
    if os.environ.get("RANK", "0") == "0":
        results.write_text(json.dumps(done))


if __name__ == "__main__":
    main()
