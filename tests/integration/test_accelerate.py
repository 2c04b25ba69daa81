"""Scripts with their own loop, and Trainer subclasses, under every strategy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from strategy_runs import STRATEGIES, launch
from transformers import Seq2SeqTrainingArguments, T5Config, T5ForConditionalGeneration, Trainer
from transformers import TrainingArguments as Arguments
from worker import Tokens, make_model

from acpt_trainer import (
    AcceleratedSeq2SeqTrainer,
    AcceleratedTrainer,
    AcceleratedTrainerMixin,
    ConfigurationError,
    GraphBuildError,
    NotEngagedError,
    create_accelerator,
)

SCRIPT = Path(__file__).with_name("accelerate_script.py")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.distributed)])
def test_accelerate_script_trains_the_same_under_every_strategy(
    tmp_path: Path, processes: int
) -> None:
    results: dict[str, Any] = {}
    # fsdp makes its accelerator in a way of its own.
    for strategy in (*STRATEGIES, "fsdp")[: None if processes > 1 else -1]:
        out = tmp_path / f"{strategy}.json"
        done = launch([str(SCRIPT), strategy, str(out)], processes)
        assert done.returncode == 0, done.stderr[-4000:]
        results[strategy] = json.loads(out.read_text())

    reference = results["no_acc"]
    for strategy, result in results.items():
        assert result["report"]["status"] == "engaged", strategy
        assert result["report"]["world_size"] == processes
        assert result["losses"] == pytest.approx(reference["losses"], rel=1e-4), strategy
        assert result["keys"] == reference["keys"]
    assert len(reference["losses"]) == 8


def arguments(tmp_path: Path, **options: Any) -> Arguments:
    defaults = {"max_steps": 3, "report_to": [], "disable_tqdm": True, "save_strategy": "no"}
    return Arguments(output_dir=str(tmp_path), **{**defaults, **options})


def test_loss_that_goes_past_the_model_stops_the_run(tmp_path: Path) -> None:
    class Sly(AcceleratedTrainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            hidden = self.model.transformer(inputs["input_ids"]).last_hidden_state
            return self.model.lm_head(hidden).pow(2).mean()

    trainer = Sly(
        model=make_model({}), args=arguments(tmp_path), train_dataset=Tokens(64), strategy="ort"
    )
    with pytest.raises(NotEngagedError, match=r"'ort'(?s:.*)did not run the first step"):
        trainer.train()
    assert trainer.state.global_step == 1


def test_model_that_cannot_be_exported_stops_before_anything_is_trained(tmp_path: Path) -> None:
    class Odd(type(make_model({}))):
        def forward(self, input_ids: Any, attention_mask: Any = None, labels: Any = None) -> Any:
            output = super().forward(input_ids, attention_mask=attention_mask, labels=labels)
            output["loss"] = output.loss + torch.linalg.svdvals(self.lm_head.weight).sum() * 0
            return output

    model = Odd(make_model({}).config)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trainer = AcceleratedTrainer(
        model=model, args=arguments(tmp_path), train_dataset=Tokens(64), strategy="ort"
    )
    with pytest.raises(GraphBuildError, match="svdvals"):
        trainer.train()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert "forward" not in vars(model)


def test_everything_wrong_is_said_at_once(tmp_path: Path) -> None:
    model = make_model({})
    model.norm = torch.nn.BatchNorm1d(4)
    args = arguments(tmp_path, torch_compile=True, torch_compile_backend="eager")
    with pytest.raises(ConfigurationError) as caught:
        AcceleratedTrainer(
            model=model, args=args, train_dataset=Tokens(64), strategy="ort", precision="bf16"
        )
    text = str(caught.value)
    assert "3 problems" in text
    for part in ("bf16", "torch_compile=True", "normalization layers"):
        assert part in text


def test_mixin_works_over_a_users_own_trainer(tmp_path: Path) -> None:
    class Own(Trainer):
        seen = 0

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            self.seen += 1
            return super().training_step(*args, **kwargs)

    class Accelerated(AcceleratedTrainerMixin, Own):
        pass

    trainer = Accelerated(
        model=make_model({}), args=arguments(tmp_path), train_dataset=Tokens(64), strategy="ort"
    )
    result = trainer.train()

    assert trainer.seen == 3
    assert trainer.strategy_report().status == "engaged"
    assert result.metrics["stable_train_samples_per_second"] > 0


def test_training_twice_engages_twice(tmp_path: Path) -> None:
    trainer = AcceleratedTrainer(
        model=make_model({}), args=arguments(tmp_path), train_dataset=Tokens(64), strategy="ort"
    )
    for _ in range(2):
        trainer.train()
        assert trainer.strategy_report().status == "engaged"
        assert trainer.strategy_report()["evidence"]["forward_calls"] == 3


def test_same_arguments_serve_one_strategy_after_another(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    for strategy, precision in (("no_acc", "bf16"), ("ds", "fp32"), ("ort", "fp32")):
        trainer = AcceleratedTrainer(
            model=make_model({}), args=args, train_dataset=Tokens(64), strategy=strategy,
            precision=precision,
        )  # fmt: skip
        trainer.train()
        assert trainer.strategy_report().status == "engaged"
        assert trainer.strategy_report().precision == precision


@pytest.mark.parametrize("strategy", ["no_acc", "ort", "ds"])
def test_untrained_model_evaluates_and_saves(tmp_path: Path, strategy: str) -> None:
    trainer = AcceleratedTrainer(
        model=make_model({}), args=arguments(tmp_path), train_dataset=Tokens(64),
        eval_dataset=Tokens(8), strategy=strategy,
    )  # fmt: skip
    assert trainer.evaluate()["eval_loss"] > 0
    trainer.save_model()
    assert json.loads((tmp_path / "strategy.json").read_text())["status"] == "pending"
    assert (tmp_path / "model.safetensors").is_file()


def test_seq2seq_trainer_trains_the_same_evaluates_and_generates(tmp_path: Path) -> None:
    losses = {}
    for strategy in ("no_acc", "ort"):
        torch.manual_seed(0)
        config = T5Config(
            d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=96,
            dropout_rate=0.0, decoder_start_token_id=0,
        )  # fmt: skip
        args = Seq2SeqTrainingArguments(
            output_dir=str(tmp_path), max_steps=3, report_to=[], disable_tqdm=True,
            logging_steps=1, predict_with_generate=True, generation_max_length=6,
            save_strategy="no", seed=0,
        )  # fmt: skip
        trainer = AcceleratedSeq2SeqTrainer(
            model=T5ForConditionalGeneration(config), args=args, train_dataset=Tokens(64),
            eval_dataset=Tokens(8), strategy=strategy,
        )  # fmt: skip
        trainer.train()
        losses[strategy] = [x["loss"] for x in trainer.state.log_history if "loss" in x]
        assert trainer.strategy_report().status == "engaged"
        assert trainer.predict(Tokens(8)).predictions.shape[0] == 8

    assert losses["ort"] == pytest.approx(losses["no_acc"], rel=1e-5)
    assert len(losses["ort"]) == 3


def test_clipping_that_deepspeed_would_ignore_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "clip.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import torch; from worker import make_model; from torch.utils.data import DataLoader\n"
        "from worker import Tokens; from acpt_trainer import create_accelerator, reported_errors\n"
        "a = create_accelerator('ds', precision='fp32'); m = make_model({})\n"
        "o = torch.optim.AdamW(m.parameters()); l = DataLoader(Tokens(8), batch_size=4)\n"
        "m, o, l = a.prepare(m, o, l)\n"
        "with reported_errors(): a.clip_grad_norm_(m.parameters(), 0.5)\n"
    )
    done = launch([str(script), str(Path(__file__).parent)], 1)

    assert done.returncode == 2
    assert "gradient_clipping" in done.stderr
    assert "Traceback" not in done.stderr


def test_second_model_on_one_accelerator_is_refused() -> None:
    accelerator = create_accelerator("no_acc", precision="fp32")
    accelerator.prepare(torch.nn.Linear(2, 2))
    with pytest.raises(ConfigurationError, match="second model"):
        accelerator.prepare(torch.nn.Linear(2, 2))


def test_half_precision_weights_are_not_called_fp32(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="half precision"):
        AcceleratedTrainer(
            model=make_model({}).bfloat16(), args=arguments(tmp_path), train_dataset=Tokens(64),
            strategy="no_acc", precision="fp32",
        )  # fmt: skip


def test_model_that_is_made_later_is_checked_too(tmp_path: Path) -> None:
    def make() -> Any:
        model = make_model({})
        model.norm = torch.nn.BatchNorm1d(4)
        return model

    trainer = AcceleratedTrainer(
        model_init=make, args=arguments(tmp_path), train_dataset=Tokens(64), strategy="ort"
    )
    with pytest.raises(ConfigurationError, match="normalization layers"):
        trainer.train()


def test_arguments_changed_between_two_trainers_are_kept(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    options = {"args": args, "train_dataset": Tokens(64)}
    first = AcceleratedTrainer(model=make_model({}), strategy="no_acc", **options)
    assert first.strategy_report().precision == "fp32"
    args.bf16 = True
    second = AcceleratedTrainer(model=make_model({}), strategy="no_acc", **options)
    second.train()
    assert second.strategy_report().precision == "bf16"
    assert second.strategy_report()["evidence"]["autocast"] == "bf16"


def test_checkpoint_without_optimizer_state_is_not_resumed(tmp_path: Path) -> None:
    args = arguments(tmp_path, save_strategy="steps", save_steps=2, save_only_model=True)
    trainer = AcceleratedTrainer(
        model=make_model({}), args=args, train_dataset=Tokens(64), strategy="ort"
    )
    trainer.train()
    with pytest.raises(ConfigurationError, match="no optimizer state"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_accelerator_is_used_again_after_free_memory(tmp_path: Path) -> None:
    accelerator = create_accelerator("ort", precision="fp32")
    for _ in range(2):
        model = make_model({})
        prepared, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), 0.1))
        prepared.train()
        accelerator.backward(prepared(**{k: v[None] for k, v in Tokens(1)[0].items()}).loss)
        accelerator.clip_grad_norm_(prepared.parameters(), max_norm=1.0, norm_type=2)
        optimizer.step()
        accelerator.save_state(str(tmp_path))
        assert json.loads((tmp_path / "strategy.json").read_text())["status"] == "engaged"
        accelerator.free_memory()
        assert "forward" not in vars(model)
