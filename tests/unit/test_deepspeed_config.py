"""DeepSpeed configs: the default one, a user's own, and where it contradicts the arguments."""

from __future__ import annotations

import gc
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acpt_trainer.strategies.base import TrainingContext
from acpt_trainer.strategies.deepspeed import DeepSpeedStrategy
from acpt_trainer.strategies.deepspeed_config import (
    DEFAULT_CONFIG,
    merged_config,
    mismatches,
    precision_problems,
    read_config,
    section_problems,
)

Args = Callable[..., Any]


needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="needs the extra 'deepspeed'"
)


def cpu(args: Any = None, precision: str = "fp32") -> TrainingContext:
    return TrainingContext(precision, "cpu", 1, args)


def test_merged_config_is_the_users_over_the_generated_one() -> None:
    user = {
        "train_batch_size": 8,
        "fp16": {"loss_scale": 128},
        "zero_optimization": {"stage": 2, "overlap_comm": False},
        "wall_clock_breakdown": True,
    }
    merged = merged_config(user)
    assert merged == {
        **DEFAULT_CONFIG,
        "train_batch_size": 8,
        "fp16": {"enabled": "auto", "loss_scale": 128},
        "zero_optimization": {"stage": 2, "overlap_comm": False},
        "wall_clock_breakdown": True,
    }


def test_merged_config_shares_nothing() -> None:
    user: dict[str, Any] = {"zero_optimization": {"stage": 2}, "tea": {"cups": [1]}}
    merged = merged_config(user)
    merged["zero_optimization"]["stage"] = 3
    merged["bf16"]["enabled"] = True
    merged["tea"]["cups"].append(2)
    assert user == {"zero_optimization": {"stage": 2}, "tea": {"cups": [1]}}
    assert DEFAULT_CONFIG["zero_optimization"] == {"stage": 1}
    assert DEFAULT_CONFIG["bf16"] == {"enabled": "auto"}


def test_read_config_of_a_mapping_is_a_copy() -> None:
    given = {"train_batch_size": 8}
    read = read_config(given)
    assert read == given
    assert read is not given


def test_section_problems_names_every_section_and_how_to_write_it() -> None:
    config = {"bf16": True, "fp16": None, "zero_optimization": 1, "train_batch_size": 3}
    found = list(section_problems(config, "ds.json").values())
    assert [p.what for p in found] == [
        "zero_optimization is 1, and DeepSpeed wants an object",
        "bf16 is True, and DeepSpeed wants an object",
        "fp16 is None, and DeepSpeed wants an object",
    ]
    assert [p.where.rsplit(", ")[-1] for p in found] == ["zero_optimization", "bf16", "fp16"]
    assert all(p.where.startswith("ds.json, ") for p in found)
    assert found[0].fix == 'write it as {"zero_optimization": {"stage": 1}}'
    assert section_problems({"bf16": {}}, "ds.json") == section_problems({}, "ds.json") == {}


@pytest.mark.parametrize(
    ("config", "precision", "wrong"),
    [
        ({}, "bf16", []),
        ({"bf16": {"enabled": "auto"}, "fp16": {}}, "bf16", []),
        ({"bf16": {"enabled": True}}, "bf16", []),
        ({"bf16": {"enabled": False}, "fp16": {"enabled": False}}, "fp32", []),
        ({"bf16": {"enabled": True}}, "fp32", ["bf16"]),
        ({"bf16": {"enabled": False}}, "bf16", ["bf16"]),
        ({"fp16": {"enabled": True}}, "bf16", ["fp16"]),
        ({"bf16": {"enabled": False}, "fp16": {"enabled": True}}, "bf16", ["bf16", "fp16"]),
    ],
)
def test_precision_problems(config: dict[str, Any], precision: str, wrong: list[str]) -> None:
    found = precision_problems(config, precision, "ds.json")
    assert [p.where for p in found] == [f"ds.json, {name}.enabled" for name in wrong]
    assert all(f"the precision is {precision}" in p.what for p in found)


# --- mismatches ----------------------------------------------------------------------------------


MISMATCHED = {
    "train_micro_batch_size_per_gpu": 3,
    "gradient_accumulation_steps": 5,
    "train_batch_size": 15,
    "gradient_clipping": 0.5,
    "fp16": {"enabled": True},
    "optimizer": {"type": "AdamW", "params": {"lr": 0.1, "eps": "auto"}},
    "scheduler": {
        "type": "WarmupDecayLR",
        "params": {"total_num_steps": 70, "warmup_num_steps": 9, "warmup_max_lr": "auto"},
    },
}
DIFFERENCES = {
    "ds train_micro_batch_size_per_gpu=3 vs hf per_device_train_batch_size=4",
    "ds gradient_accumulation_steps=5 vs hf gradient_accumulation_steps=2",
    "ds train_batch_size=15 vs hf train_batch_size (calculated)=8",
    "ds gradient_clipping=0.5 vs hf max_grad_norm=1.0",
    "ds fp16.enabled=True vs hf fp16|fp16_full_eval=False",
    "ds optimizer.params.lr=0.1 vs hf learning_rate=5e-05",
    "ds scheduler.params.total_num_steps=70 vs hf max_steps=40",
    "ds scheduler.params.warmup_num_steps=9 vs hf warmup_steps=4",
}
SAID = {
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "max_steps": 40,
    "warmup_steps": 4,
}


@needs_deepspeed
def test_every_mismatch_is_found_at_once_with_both_values(make_args: Args, tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(MISMATCHED))
    found = DeepSpeedStrategy(path).problems(cpu(make_args(**SAID)))
    prefix = "DeepSpeed config and TrainingArguments differ: "
    assert {p.what.removeprefix(prefix) for p in found} == DIFFERENCES
    assert len(found) == len(DIFFERENCES)
    assert all(str(path) in p.where for p in found)
    assert all('"auto"' in p.fix for p in found)


@needs_deepspeed
def test_mismatches_are_found_in_a_config_dictionary_and_it_is_left_alone(
    make_args: Args,
) -> None:
    before = json.dumps(MISMATCHED)
    args = make_args(**SAID)
    assert len(DeepSpeedStrategy(MISMATCHED).problems(cpu(args))) == len(DIFFERENCES)
    assert json.dumps(MISMATCHED) == before
    assert args.deepspeed is None


@needs_deepspeed
def test_agreeing_and_auto_values_are_no_mismatch(make_args: Args) -> None:
    args = make_args(**SAID)
    assert DeepSpeedStrategy().problems(cpu(args)) == []
    agreeing = {"train_batch_size": 8, "gradient_clipping": 1.0, "fp16": {"enabled": False}}
    assert DeepSpeedStrategy(agreeing).problems(cpu(args)) == []


@needs_deepspeed
def test_unknown_number_of_steps_is_not_compared(make_args: Args) -> None:
    config = {"scheduler": {"type": "WarmupDecayLR", "params": {"total_num_steps": 70}}}
    assert DeepSpeedStrategy(config).problems(cpu(make_args(num_train_epochs=1))) == []


@needs_deepspeed
def test_looking_for_mismatches_leaves_transformers_config_as_it_was(make_args: Args) -> None:
    import transformers.integrations.deepspeed as hf

    args = make_args(**SAID)
    assert hf._hf_deepspeed_config_weak_ref is None
    DeepSpeedStrategy(MISMATCHED).problems(cpu(args))
    assert hf._hf_deepspeed_config_weak_ref is None

    mine = hf.HfDeepSpeedConfig({"zero_optimization": {"stage": 2}})
    before = hf._hf_deepspeed_config_weak_ref
    DeepSpeedStrategy(MISMATCHED).problems(cpu(args))
    gc.collect()
    assert hf._hf_deepspeed_config_weak_ref is before
    assert before() is mine


@needs_deepspeed
def test_mismatches_are_found_beside_other_problems(make_args: Args) -> None:
    config = {**MISMATCHED, "zero_optimization": {"stage": 3}}
    found = DeepSpeedStrategy(config).problems(cpu(make_args(**SAID)))
    assert len(found) == len(DIFFERENCES) + 1


@needs_deepspeed
def test_mismatches_say_where_and_leave_the_arguments_alone(make_args: Args) -> None:
    args = make_args(**SAID)
    before = dict(vars(args))
    (problem,) = mismatches(merged_config({"train_batch_size": 3}), args, "ds.json")
    assert problem.where == "ds.json"
    assert "ds train_batch_size=3 vs hf train_batch_size (calculated)=8" in problem.what
    assert vars(args) == before
    assert mismatches(merged_config({}), args, "ds.json") == []
