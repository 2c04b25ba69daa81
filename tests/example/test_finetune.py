"""The training script of the example: its options, and what a run leaves behind."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from finetune_runs import BLOCK_SIZE, EXAMPLE, STEPS, Runs, Workspace, read_metrics
from homer import options
from homer.blocks import pack

RUNS = (
    pytest.param("no_acc", 1, id="no_acc"),
    pytest.param("ort", 1, id="ort"),
    pytest.param("ds_ort", 2, id="ds_ort", marks=[pytest.mark.slow, pytest.mark.distributed]),
)
each_run = pytest.mark.parametrize(("run_config", "processes"), RUNS)


def defaults() -> dict[str, Any]:
    return {
        name: action.default
        for action in options.parser()._actions
        for name in action.option_strings
        if not isinstance(action, argparse._HelpAction)
    }


# --- options -------------------------------------------------------------------------------------


def test_options_of_the_seed_keep_names_and_defaults() -> None:
    expected = {
        "--model_path": "gpt2",
        "--tokenizer_path": None,
        "--config_path": None,
        "--train_path": EXAMPLE / "data" / "training_raw.txt",
        "--validation_path": EXAMPLE / "data" / "validation_raw.txt",
        "--block_size": 1024,
        "--batch_size": 8,
        "--max_steps": 2000,
        "--run_config": "no_acc",
    }
    assert {name: value for name, value in defaults().items() if name in expected} == expected


def test_parse_derives_what_was_not_given() -> None:
    args = options.parse([])
    assert args.tokenizer_path == "gpt2"
    assert args.output_dir == EXAMPLE / "outputs" / "no_acc"
    assert args.checkpoint_dir == args.output_dir / "checkpoints"
    assert (args.eval_steps, args.save_steps, args.warmup_steps) == (400, 400, 100)
    assert (args.precision, args.resume, args.overwrite) == ("auto", None, False)


def test_parse_keeps_what_was_given() -> None:
    given = ["--max_steps", "3", "--warmup_steps", "0", "--save_steps", "2", "--resume"]
    args = options.parse([*given, "--from_scratch", "--run_config", "ort+ds"])
    assert (args.eval_steps, args.save_steps, args.warmup_steps) == (1, 2, 0)
    assert args.resume == "auto"
    assert args.output_dir == EXAMPLE / "outputs" / "ort_ds"
    # A tokenizer for random weights is a choice: the hub's would be a download.
    assert args.tokenizer_path is None


def test_help_and_option_checks_need_no_torch(workspace: Workspace) -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); import finetune; finetune.options.parse([]); "
        "print(sorted({'torch', 'transformers', 'onnxruntime', 'deepspeed'} & set(sys.modules)))"
    )
    done = workspace.python("-c", program, str(EXAMPLE))
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


# --- a run ---------------------------------------------------------------------------------------


@each_run
def test_metrics_say_what_ran(runs: Runs, run_config: str, processes: int) -> None:
    metrics = runs(run_config, processes).metrics
    assert metrics["run_config"] == run_config
    assert metrics["strategy"]["strategy"] == run_config
    assert metrics["strategy"]["status"] == "engaged"
    assert (metrics["precision"], metrics["world_size"]) == ("fp32", processes)
    assert {"python", "torch", "transformers", "accelerate"} <= set(metrics["versions"])
    assert metrics["options"]["max_steps"] == metrics["steps"] == STEPS
    assert metrics["resumed_from"] is None


@each_run
def test_metrics_prove_the_strategy(runs: Runs, run_config: str, processes: int) -> None:
    evidence = runs(run_config, processes).metrics["strategy"]["evidence"]
    ort = evidence.get("ort", evidence)
    assert ort.get("forward_calls") == (STEPS if "ort" in run_config else None)
    share = evidence.get("ds", {}).get("optimizer_state_share")
    assert share == (pytest.approx(0.5, abs=0.05) if "ds" in run_config else None)


@each_run
def test_metrics_hold_consistent_losses(runs: Runs, run_config: str, processes: int) -> None:
    metrics = runs(run_config, processes).metrics
    steps, losses = zip(*metrics["loss_history"], strict=True)
    assert steps == tuple(range(1, STEPS + 1))
    assert metrics["train_loss"] == pytest.approx(fmean(losses), rel=1e-4)
    assert losses[-1] < losses[0]
    assert metrics["eval_loss_history"] == [[STEPS, metrics["eval_loss"]]]
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["eval_loss"]))


@each_run
def test_metrics_hold_throughput_and_memory(runs: Runs, run_config: str, processes: int) -> None:
    metrics = runs(run_config, processes).metrics
    samples = STEPS * 2
    overall = samples / metrics["train_runtime"]
    assert metrics["train_samples_per_second"] == pytest.approx(overall, rel=0.05)
    stable = metrics["stable_train_samples_per_second"]
    assert stable > 0
    assert metrics["stable_train_tokens_per_second"] == pytest.approx(stable * BLOCK_SIZE, rel=0.01)
    assert metrics["stable_train_steps"] + metrics["warmup_steps_excluded"] == STEPS
    assert metrics["peak_memory_mb"] > 50


@each_run
def test_samples_begin_with_their_prompts(runs: Runs, run_config: str, processes: int) -> None:
    samples = runs(run_config, processes).metrics["samples"]
    assert len(samples) >= 1
    for sample in samples:
        assert sample["text"].startswith(sample["prompt"])
        assert len(sample["text"]) > len(sample["prompt"])


@each_run
def test_output_folder_is_a_plain_model(runs: Runs, run_config: str, processes: int) -> None:
    output = runs(run_config, processes).output
    files = {path.name for path in output.iterdir()}
    assert {"model.safetensors", "config.json", "strategy.json", "metrics.json"} <= files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert not [name for name in files if name.endswith((".tmp", ".part"))]


@each_run
def test_plain_transformers_reproduces_the_loss(
    runs: Runs, workspace: Workspace, run_config: str, processes: int
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = runs(run_config, processes)
    tokenizer = AutoTokenizer.from_pretrained(run.output)
    model = AutoModelForCausalLM.from_pretrained(run.output).eval()
    text = (workspace.folder / "validation_raw.txt").read_text(encoding="utf-8").splitlines()
    ids = tokenizer([f"{line} " for line in text])["input_ids"]
    blocks = torch.tensor(pack({"input_ids": ids}, BLOCK_SIZE)["input_ids"])
    with torch.inference_mode():
        loss = model(input_ids=blocks, labels=blocks).loss.item()
    assert loss == pytest.approx(run.metrics["eval_loss"], rel=1e-4)


@each_run
def test_loss_plot_is_a_picture(runs: Runs, run_config: str, processes: int) -> None:
    from matplotlib.image import imread

    path = runs(run_config, processes).output / "loss.png"
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    height, width, _ = imread(path).shape
    assert height > 300
    assert width > 300


@pytest.mark.parametrize(("run_config", "processes"), RUNS[1:])
def test_losses_are_those_of_the_plain_run(runs: Runs, run_config: str, processes: int) -> None:
    plain, other = runs("no_acc").metrics, runs(run_config, processes).metrics
    assert [step for step, _ in other["loss_history"]] == [s for s, _ in plain["loss_history"]]
    expected = [loss for _, loss in plain["loss_history"]]
    assert [loss for _, loss in other["loss_history"]] == pytest.approx(expected, rel=1e-4)
    assert other["eval_loss"] == pytest.approx(plain["eval_loss"], rel=1e-4)


@each_run
def test_output_is_readable_and_printed_once(runs: Runs, run_config: str, processes: int) -> None:
    done = runs(run_config, processes).done
    for words in (f"step     1/{STEPS}  loss", "validation loss", "perplexity", "sample: "):
        assert words in done.stdout
    assert done.stdout.count(f"step     1/{STEPS}  loss") == 1
    assert done.stdout.count("written: ") == 1
    assert done.stdout.count(f"strategy {run_config}: engaged") == 1


def test_no_progress_bars_or_library_chatter_in_a_log(runs: Runs) -> None:
    assert runs("no_acc").done.stderr == ""


def test_fine_tuning_starts_from_the_trained_weights(
    runs: Runs, workspace: Workspace, tmp_path: Path
) -> None:
    trained = runs("no_acc")
    changes = {"from_scratch": None, "config_path": None, "tokenizer_path": None}
    done = workspace.finetune(tmp_path, model_path=trained.output, max_steps=1, **changes)
    assert done.returncode == 0, done.stderr[-4000:]
    first = read_metrics(tmp_path)["loss_history"][0][1]
    # Random weights give the first loss of the trained run.
    assert first < trained.metrics["loss_history"][0][1] - 0.1


def test_a_model_with_few_positions_gets_samples(workspace: Workspace) -> None:
    import torch
    from homer.results import generate_samples
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(workspace.folder / "tokenizer")
    config = GPT2Config(
        n_layer=1, n_head=2, n_embd=16, n_positions=8, vocab_size=len(tokenizer), bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    prompts = ("Across the sea the ships of the long-haired men came home",)
    (sample,) = generate_samples(GPT2LMHeadModel(config), tokenizer, 1, prompts)
    assert sample["prompt"] == prompts[0]
