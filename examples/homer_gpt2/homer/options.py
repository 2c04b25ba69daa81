"""The command line of `finetune.py`, and everything about it that can be checked without torch."""

from __future__ import annotations

import argparse
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from acpt_trainer import ConfigurationError, Problem, get_strategy

HERE = Path(__file__).resolve().parent.parent
PRECISIONS = ("auto", "fp32", "bf16", "fp16")

_EXAMPLES = """\
examples:
  Fine-tune GPT-2 on the prepared text, in mixed precision:
    python finetune.py

  The same step in ONNX Runtime, or with DeepSpeed ZeRO-1 over two processes:
    python finetune.py --run_config ort
    torchrun --nproc_per_node 2 finetune.py --run_config ds

  A small GPT-2 from scratch, with a tokenizer of its own, on a machine without a GPU:
    python prepare_data.py --tokenizer_vocab_size 8192
    python finetune.py --from_scratch --config_path configs/gpt2_small.json \\
        --tokenizer_path data/tokenizer --block_size 128 --max_steps 400 --learning_rate 2e-3

  Go on after an interruption, from the newest complete checkpoint:
    python finetune.py --run_config ort --resume
"""


def parser() -> argparse.ArgumentParser:
    """Builds the parser; the first eight options are the seed's and keep its defaults."""
    made = argparse.ArgumentParser(
        description="Fine-tunes GPT-2 on the prepared text; one name picks the acceleration.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    data = HERE / "data"
    add("--model_path", default="gpt2", help="hub name or folder of the model (default: gpt2)")
    add("--tokenizer_path", help="hub name or folder of the tokenizer (default: the model's)")
    add("--config_path", type=Path, help="JSON of the model's shape, with --from_scratch")
    add("--train_path", type=Path, default=data / "training_raw.txt", help="text, one line each")
    add("--validation_path", type=Path, default=data / "validation_raw.txt", help="the same")
    add("--block_size", type=int, default=1024, help="tokens in a sample (default: 1024)")
    add("--batch_size", type=int, default=8, help="samples a process and step (default: 8)")
    add("--max_steps", type=int, default=2000, help="optimizer steps (default: 2000)")
    add(
        "--run_config",
        default="no_acc",
        help="no_acc, ort, ds, ds_ort or another registered strategy, or auto (default: no_acc)",
    )
    add("--from_scratch", action="store_true", help="random weights, in the shape of --config_path")
    add("--learning_rate", type=float, default=5e-5, help="peak learning rate (default: 5e-5)")
    add("--warmup_steps", type=int, help="steps to reach it (default: a twentieth of all)")
    add("--weight_decay", type=float, default=0.01, help="decay of AdamW (default: 0.01)")
    add("--gradient_accumulation_steps", type=int, default=1, help="micro-batches a step")
    add("--label_smoothing", type=float, default=0.0, help="label smoothing factor (default: 0)")
    add("--seed", type=int, default=42, help="of weights, data order and samples (default: 42)")
    add(
        "--precision",
        default="auto",
        choices=PRECISIONS,
        help="auto takes what the device and the strategy train in best (default: auto)",
    )
    add("--attn_implementation", choices=("eager", "sdpa"), help="default: the model's own")
    add("--output_dir", type=Path, help="default: outputs/RUN_CONFIG beside this script")
    add("--checkpoint_dir", type=Path, help="default: checkpoints in the output folder")
    add("--eval_steps", type=int, help="evaluate this often (default: a fifth of all steps)")
    add("--save_steps", type=int, help="write a checkpoint this often (default: --eval_steps)")
    add("--save_total_limit", type=int, default=2, help="checkpoints to keep (default: 2)")
    add("--logging_steps", type=int, default=10, help="log the loss this often (default: 10)")
    add("--preprocessing_num_workers", type=int, help="processes that tokenise (default: cores)")
    add(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="go on from this checkpoint; without a value from the newest complete one, or from "
        "the start if there is none",
    )
    add("--overwrite", action="store_true", help="discard the checkpoints of an earlier run")
    add("--debug", action="store_true", help="show the warnings of the libraries")
    return made


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line and fills in what depends on other options."""
    args = parser().parse_args(argv)
    if args.output_dir is None:
        args.output_dir = HERE / "outputs" / args.run_config.replace("+", "_")
    if args.checkpoint_dir is None:
        args.checkpoint_dir = args.output_dir / "checkpoints"
    if args.tokenizer_path is None and not args.from_scratch:
        args.tokenizer_path = args.model_path
    if args.eval_steps is None:
        args.eval_steps = max(1, args.max_steps // 5)
    if args.save_steps is None:
        args.save_steps = args.eval_steps
    if args.warmup_steps is None:
        args.warmup_steps = max(0, args.max_steps // 20)
    if args.preprocessing_num_workers is None:
        args.preprocessing_num_workers = os.cpu_count() or 1
    return args


def problems(args: argparse.Namespace) -> list[Problem]:
    """Everything that is wrong with the command line, found before a library is loaded."""
    return [*_number_problems(args), *_file_problems(args), *_strategy_problems(args)]


def _number_problems(args: argparse.Namespace) -> list[Problem]:
    found = []
    at_least_one = (
        "batch_size",
        "max_steps",
        "gradient_accumulation_steps",
        "eval_steps",
        "save_steps",
        "save_total_limit",
        "logging_steps",
        "preprocessing_num_workers",
    )
    for name in at_least_one:
        if getattr(args, name) < 1:
            what = f"{getattr(args, name)} is too small"
            found.append(Problem(what, f"--{name}", "give a whole number from 1 on"))
    if args.block_size < 2:
        fix = "give at least 2: each token but the first is predicted from those before it"
        found.append(Problem(f"{args.block_size} is too small", "--block_size", fix))
    for name, low, high in (
        ("learning_rate", 0.0, 10.0),
        ("weight_decay", 0.0, 10.0),
        ("label_smoothing", 0.0, 0.99),
        ("warmup_steps", 0, args.max_steps),
        ("seed", 0, 2**32 - 1),
    ):
        value = getattr(args, name)
        if not (math.isfinite(value) and low <= value <= high):
            found.append(Problem(f"{value} is out of range", f"--{name}", f"give {low} to {high}"))
    return found


def _file_problems(args: argparse.Namespace) -> list[Problem]:
    found = []
    for name in ("train_path", "validation_path"):
        path = getattr(args, name)
        if not path.is_file():
            fix = "run prepare_data.py first, or name another file"
            found.append(Problem("there is no such file", f"--{name} {path}", fix))
        elif path.stat().st_size == 0:
            fix = "run prepare_data.py again"
            found.append(Problem("the file is empty", f"--{name} {path}", fix))
    if args.from_scratch:
        if args.config_path is None:
            fix = "add --config_path configs/gpt2_small.json or another model config"
            found.append(Problem("a model from scratch needs a shape", "--from_scratch", fix))
        elif not args.config_path.is_file():
            fix = "name a JSON file such as configs/gpt2_small.json"
            found.append(Problem("there is no such file", f"--config_path {args.config_path}", fix))
        if args.tokenizer_path is None:
            fix = (
                "run prepare_data.py --tokenizer_vocab_size 8192 and add "
                "--tokenizer_path data/tokenizer"
            )
            found.append(Problem("a model from scratch needs a tokenizer", "--from_scratch", fix))
    elif args.config_path is not None:
        fix = "add --from_scratch, or leave --config_path out"
        found.append(Problem("a trained model brings its own config", "--config_path", fix))
    for name in ("output_dir", "checkpoint_dir"):
        path = getattr(args, name)
        existing = next(p for p in (path, *path.absolute().parents) if p.exists())
        if not existing.is_dir():
            what, fix = f"{existing} is a file", "name a folder"
            found.append(Problem(what, f"--{name} {path}", fix))
    if args.resume not in (None, "auto") and not Path(args.resume).is_dir():
        fix = "name a checkpoint folder, or give --resume alone for the newest one"
        found.append(Problem("there is no such checkpoint", f"--resume {args.resume}", fix))
    if args.resume is not None and args.overwrite:
        what = "--resume keeps the checkpoints that --overwrite discards"
        found.append(Problem(what, "--resume --overwrite", "give one of them"))
    elif (
        args.resume is None and not args.overwrite and any(args.checkpoint_dir.glob("checkpoint-*"))
    ):
        fix = "add --resume to go on, --overwrite to discard them, or name another --output_dir"
        found.append(Problem("an earlier run left checkpoints here", str(args.checkpoint_dir), fix))
    return found


def _strategy_problems(args: argparse.Namespace) -> list[Problem]:
    try:
        return get_strategy(args.run_config).problems()
    except ConfigurationError as error:
        return list(error.problems)


def disk_problems(args: argparse.Namespace, parameters: int) -> list[Problem]:
    """Whether the checkpoints will fit on the disk.

    Args:
        args: The command line.
        parameters: Number of the model's parameters.

    Returns:
        A problem if they will not.
    """
    # Weights and two moments of Adam in fp32; one checkpoint more while the oldest is replaced.
    checkpoint = parameters * 4 * 3
    found = []
    for name, need in (
        ("checkpoint_dir", checkpoint * (args.save_total_limit + 1)),
        ("output_dir", parameters * 4),
    ):
        path = getattr(args, name).absolute()
        existing = next(p for p in (path, *path.parents) if p.exists())
        free = shutil.disk_usage(existing).free
        if free < need:
            found.append(
                Problem(
                    f"the disk has {free / 1e6:,.0f} MB free, and about {need / 1e6:,.0f} MB are "
                    "needed",
                    f"--{name} {path}",
                    "free some space, name another folder, or lower --save_total_limit",
                )
            )
    return found
