"""Fine-tunes GPT-2 on the prepared text, alone or under torchrun; one name picks how."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homer import options

from acpt_trainer import Problem, last_checkpoint, raise_if_any, reported_errors

if TYPE_CHECKING:
    from transformers import TrainingArguments

DEVICES = Path("/dev")
IS_MAIN = os.environ.get("RANK", "0") == "0"


def say(*words: object) -> None:
    """Prints once, whatever the number of processes."""
    if IS_MAIN:
        print(*words, flush=True)


def training_arguments(args: argparse.Namespace) -> TrainingArguments:
    """The hyper-parameters, said once: a DeepSpeed config takes them from here."""
    import torch
    from transformers import TrainingArguments

    return TrainingArguments(
        output_dir=str(args.checkpoint_dir),
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=args.batch_size,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        max_steps=args.max_steps,
        learning_rate=args.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=args.warmup_steps,
        weight_decay=args.weight_decay,
        label_smoothing_factor=args.label_smoothing,
        eval_strategy="steps",
        eval_steps=args.eval_steps,
        save_strategy="steps",
        save_steps=args.save_steps,
        save_total_limit=args.save_total_limit,
        logging_steps=args.logging_steps,
        logging_first_step=True,
        seed=args.seed,
        data_seed=args.seed,
        use_cpu=not torch.cuda.is_available(),
        report_to=[],
        # A bar is for a terminal; a log file gets one line each time the loss is logged.
        disable_tqdm=not sys.stderr.isatty(),
        ddp_find_unused_parameters=False,
    )


def datasets_of(args: argparse.Namespace, tokenizer: Any, first: TrainingArguments) -> list[Any]:
    """The blocks for training and validation; one process makes them, the others read the cache."""
    from homer.blocks import load_blocks, too_short

    made, problems = [], []
    for option in ("train_path", "validation_path"):
        path: Path = getattr(args, option)
        with first.main_process_first(desc=f"tokenise {path.name}"):
            blocks = load_blocks(
                path, tokenizer, args.block_size, args.preprocessing_num_workers, f"--{option}"
            )
        problems += too_short(blocks, f"--{option}", path, args.block_size)
        made.append(blocks)
    raise_if_any(problems, "Cannot train on this text")
    return made


def gpu_problems() -> list[Problem]:
    """Whether the machine has a GPU that torch cannot use: it would train on the CPU instead."""
    import torch

    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if hidden or torch.cuda.is_available() or not any(DEVICES.glob("nvidia[0-9]*")):
        return []
    what = f"this machine has a GPU that torch, made for CUDA {torch.version.cuda}, cannot use"
    fix = "update the NVIDIA driver or install a torch for its CUDA; CUDA_VISIBLE_DEVICES= hides it"
    return [Problem(what, "/dev/nvidia*", fix)]


def checkpoint_to_resume(args: argparse.Namespace) -> str | None:
    """The checkpoint that `--resume` names or finds."""
    if args.resume is None:
        return None
    found = args.resume if args.resume != "auto" else last_checkpoint(args.checkpoint_dir)
    say(f"resuming from {found}" if found else "no complete checkpoint yet: starting anew")
    return found


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Trains, evaluates and saves.

    Returns:
        The metrics of the run, on every process.

    Raises:
        ConfigurationError: If it cannot start.
    """
    from homer.finished import finish, is_finished
    from homer.model import load_model, load_tokenizer
    from homer.progress import LossLines
    from homer.results import generate_samples, histories, perplexity
    from transformers import PrinterCallback, default_data_collator
    from transformers.utils import logging

    from acpt_trainer import AcceleratedTrainer, peak_memory_mb

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    raise_if_any(gpu_problems(), "Cannot train")
    tokenizer = load_tokenizer(args)
    model = load_model(args, tokenizer)
    raise_if_any(options.disk_problems(args, model.num_parameters()), "Cannot save this model")
    arguments = training_arguments(args)
    training, validation = datasets_of(args, tokenizer, arguments)
    resumed = checkpoint_to_resume(args)
    if resumed and is_finished(resumed, args.max_steps):
        say("all steps are done: saving the model of this checkpoint")
        return finish(args, resumed, arguments, validation)
    trainer = AcceleratedTrainer(
        model=model,
        args=arguments,
        train_dataset=training,
        eval_dataset=validation,
        data_collator=default_data_collator,
        processing_class=tokenizer,
        strategy=args.run_config,
        precision=args.precision,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(LossLines())
    say(
        f"{args.run_config}: {model.num_parameters():,} parameters, {len(training)} blocks of "
        f"{args.block_size} tokens, {arguments.world_size} process(es), {args.max_steps} steps"
    )
    with arguments.main_process_first(desc="discard old checkpoints"):
        if args.overwrite and arguments.process_index == 0:
            for old in args.checkpoint_dir.glob("checkpoint-*"):
                shutil.rmtree(old)
    result = trainer.train(resume_from_checkpoint=resumed)
    losses, evaluations = histories(trainer.state.log_history)
    # A smoothed loss is no measure of what the model predicts: perplexity is of the plain one.
    trainer.label_smoother = None
    last = evaluations[-1][0] if evaluations else None
    if last != trainer.state.global_step or args.label_smoothing:
        evaluations.append([trainer.state.global_step, trainer.evaluate()["eval_loss"]])
    eval_loss = evaluations[-1][1]
    trainer.save_model(str(args.output_dir))
    # A pickle of the arguments is no part of a model folder.
    (args.output_dir / "training_args.bin").unlink(missing_ok=True)
    report = trainer.strategy_report()
    say(report)
    throughput = ("train_samples_per_second", "train_runtime")
    measured = {
        k: v
        for k, v in result.metrics.items()
        if k.startswith("stable_")
        or k in (*throughput, "first_step_seconds", "warmup_steps_excluded")
    }
    return {
        "run_config": args.run_config,
        "strategy": report.to_dict(),
        "precision": report.precision,
        "world_size": report.world_size,
        "steps": trainer.state.global_step,
        "resumed_from": resumed,
        "train_loss": result.training_loss,
        "eval_loss": eval_loss,
        "perplexity": perplexity(eval_loss),
        "loss_history": losses,
        "eval_loss_history": evaluations,
        **measured,
        "peak_memory_mb": peak_memory_mb(report.device),
        "samples": generate_samples(trainer.model, tokenizer, args.seed) if IS_MAIN else [],
        "versions": report.versions,
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()},
    }


def write_results(args: argparse.Namespace, metrics: dict[str, Any]) -> None:
    """Writes metrics.json and loss.png beside the model, and prints what matters."""
    from homer.results import METRICS, PLOT, plot_losses, write_metrics

    write_metrics(metrics, args.output_dir / METRICS)
    curves = {args.run_config: (metrics["loss_history"], metrics["eval_loss_history"])}
    title = f"{args.run_config}, {metrics['precision']}, {metrics['world_size']} process(es)"
    plot_losses(curves, args.output_dir / PLOT, title)
    speed = metrics.get("stable_train_tokens_per_second")
    say(
        f"validation loss {metrics['eval_loss']:.4f}, perplexity {metrics['perplexity']:.1f}"
        + (f", {speed:,.0f} tokens/s in stable steps" if speed else "")
    )
    sample = metrics["samples"][0]
    say(f"sample: {sample['text']}")
    say(f"written: {args.output_dir} (model, {METRICS}, {PLOT})")


def quieten() -> None:
    """Leaves progress and our own words; `--debug` shows the rest."""
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script; a user's mistake ends it with status 2 and no stack trace."""
    args = options.parse(argv)
    if not args.debug:
        quieten()
    with reported_errors():
        raise_if_any(options.problems(args), "Cannot train")
        metrics = train(args)
        if IS_MAIN:
            write_results(args, metrics)


if __name__ == "__main__":
    main()
