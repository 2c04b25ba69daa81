"""A run whose last step is done and whose model was not saved: the model comes from its checkpoint.

A node that is taken away between the last checkpoint and the end leaves such a run.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any


def is_finished(checkpoint: str, max_steps: int) -> bool:
    """Whether a checkpoint was written after the last step."""
    state = json.loads((Path(checkpoint) / "trainer_state.json").read_text(encoding="utf-8"))
    return bool(state["global_step"] == max_steps)


def finish(args: argparse.Namespace, checkpoint: str, arguments: Any, data: Any) -> dict[str, Any]:
    """Evaluates, if that was not done, and saves.

    Args:
        args: The command line.
        checkpoint: Written after the last step.
        arguments: The run's `TrainingArguments`.
        data: Blocks for validation.

    Returns:
        The metrics of the run, without what only the process that trained knew: the mean loss,
        speed and memory.
    """
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        TrainerState,
        default_data_collator,
    )

    from acpt_trainer import AcceleratedTrainer
    from homer.model import with_shifted_loss
    from homer.results import generate_samples, histories, perplexity

    folder = Path(checkpoint)
    state = TrainerState.load_from_json(str(folder / "trainer_state.json"))
    wrote = json.loads((folder / "strategy.json").read_text(encoding="utf-8"))
    losses, evaluations = histories(state.log_history)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    # Nothing is trained any more, so the plain model does, whatever trained it.
    trainer = AcceleratedTrainer(
        model=with_shifted_loss(model),
        args=arguments,
        eval_dataset=data,
        data_collator=default_data_collator,
        processing_class=tokenizer,
        strategy="no_acc",
        precision=args.precision,
    )
    if not evaluations or evaluations[-1][0] != state.global_step or args.label_smoothing:
        trainer.label_smoother = None
        evaluations.append([state.global_step, trainer.evaluate()["eval_loss"]])
    trainer.save_model(str(args.output_dir))
    if arguments.process_index == 0:
        (args.output_dir / "training_args.bin").unlink(missing_ok=True)
        shutil.copy(folder / "strategy.json", args.output_dir)
    eval_loss = evaluations[-1][1]
    return {
        "run_config": args.run_config,
        "strategy": wrote,
        "precision": wrote["precision"],
        "world_size": wrote["world_size"],
        "steps": state.global_step,
        "resumed_from": checkpoint,
        "train_loss": None,
        "eval_loss": eval_loss,
        "perplexity": perplexity(eval_loss),
        "loss_history": losses,
        "eval_loss_history": evaluations,
        "peak_memory_mb": None,
        "samples": generate_samples(trainer.model, tokenizer, args.seed),
        "versions": wrote["versions"],
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
    }
