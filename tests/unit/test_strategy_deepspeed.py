"""`ds` without an engine: the config, its mismatches, and the evidence read from a made-up one."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from acpt_trainer.strategies import deepspeed as module
from acpt_trainer.strategies.base import Status, TrainingContext
from acpt_trainer.strategies.deepspeed import DeepSpeedStrategy
from acpt_trainer.strategies.deepspeed_config import (
    DEFAULT_CONFIG,
    merged_config,
    read_config,
)

Args = Callable[..., Any]

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="needs the extra 'deepspeed'"
)


def cpu(args: Any = None, precision: str = "fp32") -> TrainingContext:
    return TrainingContext(precision, "cpu", 1, args)


def plain_args(**changed: Any) -> Any:
    """Arguments for what needs no DeepSpeed to be looked at."""
    return SimpleNamespace(**{"deepspeed": None, "fsdp": None, **changed})


# --- the config ----------------------------------------------------------------------------------


def test_generated_config_leaves_every_hyper_parameter_to_the_arguments() -> None:
    config = DeepSpeedStrategy().resolved_config(None)
    assert config == DEFAULT_CONFIG
    said = {k: v for k, v in config.items() if not k.startswith("zero_")}
    assert said == {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto"},
    }
    assert config["zero_optimization"] == {"stage": 1}


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


def test_config_file_is_merged(tmp_path: Path) -> None:
    path = tmp_path / "ds.json"
    path.write_text(json.dumps({"zero_optimization": {"stage": 2}, "steps_per_print": 7}))
    for given in (path, str(path)):
        strategy = DeepSpeedStrategy(given)
        assert strategy.problems(cpu()) == []
        config = strategy.resolved_config(None)
        assert (config["zero_optimization"]["stage"], config["steps_per_print"]) == (2, 7)
        assert config["gradient_clipping"] == "auto"
        assert strategy.options() == {"config": str(path), "zero_stage": None}


def test_config_of_the_arguments_is_taken() -> None:
    args = plain_args(deepspeed={"zero_optimization": {"stage": 2}})
    config = DeepSpeedStrategy().resolved_config(args)
    assert config["zero_optimization"]["stage"] == 2


def test_zero_stage_is_written_into_the_config() -> None:
    strategy = DeepSpeedStrategy(zero_stage=2)
    assert strategy.problems(cpu()) == []
    assert strategy.resolved_config(None)["zero_optimization"] == {"stage": 2}
    assert strategy.options() == {"config": None, "zero_stage": 2}


def test_read_config_of_a_mapping_is_a_copy() -> None:
    given = {"train_batch_size": 8}
    read = read_config(given)
    assert read == given
    assert read is not given


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "the DeepSpeed config cannot be read: No such file or directory"),
        (b"{'stage': 1}", "the DeepSpeed config is not JSON: "),
        (b"", "the DeepSpeed config is not JSON: "),
        (b"\xff\xfe", "the DeepSpeed config is not JSON: "),
        (b"[1, 2]", "the DeepSpeed config holds a list, not an object"),
        (b"3", "the DeepSpeed config holds a int, not an object"),
    ],
    ids=["missing", "quotes", "empty", "binary", "list", "number"],
)
def test_unusable_config_file_is_named(tmp_path: Path, content: bytes | None, what: str) -> None:
    path = tmp_path / "ds.json"
    if content is not None:
        path.write_bytes(content)
    (problem,) = DeepSpeedStrategy(path).problems(cpu())
    assert problem.what.startswith(what)
    assert problem.where == str(path)
    assert problem.fix
    with pytest.raises(ValueError, match="DeepSpeed config"):
        DeepSpeedStrategy(path).resolved_config(None)


def test_config_path_that_is_a_folder(tmp_path: Path) -> None:
    (problem,) = DeepSpeedStrategy(tmp_path).problems(cpu())
    assert "cannot be read" in problem.what


@pytest.mark.parametrize("stage", [0, 3, 4, -1, "1", "auto", True, 1.5], ids=repr)
def test_unsupported_stage_is_refused(stage: Any) -> None:
    for strategy in (
        DeepSpeedStrategy({"zero_optimization": {"stage": stage}}),
        DeepSpeedStrategy(zero_stage=stage),
    ):
        (problem,) = strategy.problems(cpu())
        assert problem.what.startswith(f"ZeRO stage {stage!r} is not supported")
        assert problem.where.endswith("zero_optimization.stage")
        assert problem.fix == "set the stage to 1 or 2"


def test_stage_said_twice_must_agree() -> None:
    config = {"zero_optimization": {"stage": 2}}
    (problem,) = DeepSpeedStrategy(config, zero_stage=1).problems(cpu())
    assert problem.what == "zero_stage=1 and the config's stage 2 differ"
    assert DeepSpeedStrategy(config, zero_stage=2).problems(cpu()) == []
    assert DeepSpeedStrategy({}, zero_stage=2).problems(cpu()) == []


@needs_deepspeed
def test_two_configs_are_refused(make_args: Args) -> None:
    strategy = DeepSpeedStrategy({"zero_optimization": {"stage": 1}})
    args = make_args()
    args.deepspeed = "other.json"
    (problem,) = strategy.problems(cpu(args))
    assert problem.what == "two DeepSpeed configs are given"
    assert "DeepSpeedStrategy(config=...)" in problem.where
    assert "TrainingArguments(deepspeed=...)" in problem.where


@needs_deepspeed
def test_fsdp_beside_deepspeed_is_refused(make_args: Args) -> None:
    args = make_args()
    args.fsdp = ["full_shard"]
    (problem,) = DeepSpeedStrategy().problems(cpu(args))
    assert "DeepSpeed and FSDP cannot be combined" in problem.what
    assert "full_shard" in problem.where


def test_fp16_on_cpu_is_refused_by_name() -> None:
    (problem,) = DeepSpeedStrategy().problems(cpu(precision="fp16"))
    assert problem.what == "strategy 'ds' does not train in fp16 on cpu"


@pytest.mark.parametrize("config", [{"bf16": True}, {"zero_optimization": 1}], ids=repr)
@needs_deepspeed
def test_malformed_section_is_a_problem_not_an_exception(
    make_args: Args, config: dict[str, Any]
) -> None:
    assert DeepSpeedStrategy(config).problems(cpu(make_args()))


def test_missing_package_is_the_only_problem_and_nothing_is_imported(
    missing: Callable[..., None], make_args: Args
) -> None:
    missing("deepspeed")
    wrong = {"train_batch_size": 99, "gradient_clipping": 7.0}
    (problem,) = DeepSpeedStrategy(wrong).problems(cpu(make_args()))
    assert problem.fix == "pip install 'acpt-trainer[deepspeed]'"


def test_looking_for_problems_without_deepspeed_does_not_import_it(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = run_python(
        "-c",
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda n, *a: None if n == 'deepspeed' else find(n, *a)\n"
        "from acpt_trainer import TrainingContext, get_strategy\n"
        "problems = get_strategy('ds').build().problems(TrainingContext('fp32', 'cpu'))\n"
        "print([p.fix for p in problems], 'deepspeed' in sys.modules, 'torch' in sys.modules)",
    )
    assert done.stdout.strip() == "[\"pip install 'acpt-trainer[deepspeed]'\"] False False"


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


# --- configuring ---------------------------------------------------------------------------------


@needs_deepspeed
def test_configure_puts_the_config_where_the_arguments_would(make_args: Args) -> None:
    args = make_args(**SAID, bf16=True)
    strategy = DeepSpeedStrategy({"zero_optimization": {"stage": 2}})
    strategy.configure(args)
    config = args.hf_deepspeed_config.config
    assert config["train_micro_batch_size_per_gpu"] == 4
    assert config["gradient_accumulation_steps"] == 2
    assert config["train_batch_size"] == 8
    assert config["gradient_clipping"] == 1.0
    assert (config["bf16"]["enabled"], config["fp16"]["enabled"]) == (True, False)
    assert config["zero_optimization"]["stage"] == 2
    assert args.deepspeed_plugin.zero_stage == 2
    assert args.deepspeed["zero_optimization"]["stage"] == 2


@needs_deepspeed
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_accelerator_kwargs_hold_a_plugin_in_the_precision(precision: str) -> None:
    from accelerate.utils import DeepSpeedPlugin

    kwargs = DeepSpeedStrategy(zero_stage=2).accelerator_kwargs(cpu(precision=precision))
    assert set(kwargs) == {"deepspeed_plugin"}
    plugin = kwargs["deepspeed_plugin"]
    assert isinstance(plugin, DeepSpeedPlugin)
    assert plugin.zero_stage == 2
    assert plugin.deepspeed_config["bf16"]["enabled"] is (precision == "bf16")
    assert plugin.deepspeed_config["fp16"]["enabled"] is False


@needs_deepspeed
def test_precision_of_the_config_must_agree_in_a_plain_script() -> None:
    assert DeepSpeedStrategy({"bf16": {"enabled": True}}).problems(cpu(precision="fp32"))


def test_single_process_gets_a_group_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, Any]] = []
    fake = SimpleNamespace(init_distributed=lambda **options: started.append(options))
    monkeypatch.setattr(module, "import_deepspeed", lambda: fake)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    module._start_single_process()
    assert started == [{"auto_mpi_discovery": False, "verbose": False}]
    assert os.environ["RANK"] == os.environ["LOCAL_RANK"] == "0"
    assert os.environ["WORLD_SIZE"] == "1"
    assert os.environ["MASTER_ADDR"] == "127.0.0.1"
    assert 0 < int(os.environ["MASTER_PORT"]) < 65536


def test_launcher_s_variables_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    before = dict(os.environ)
    module._start_single_process()
    assert dict(os.environ) == before


# --- evidence ------------------------------------------------------------------------------------


class DeepSpeedZeroOptimizer:
    """What the evidence is read from: this process's partition of one flat group."""

    def __init__(self, whole: int, partitions: int, held: int, stepped: bool = True) -> None:
        partition = torch.zeros(held)
        moments = {"exp_avg": torch.zeros(held), "exp_avg_sq": torch.zeros(held)}
        self.single_partition_of_fp32_groups = [partition]
        self.bit16_groups_flat = [torch.zeros(whole)]
        self.partition_count = [partitions]
        self.optimizer = SimpleNamespace(state={partition: moments} if stepped else {})


class DeepSpeedEngine:
    """A made-up engine."""

    def __init__(
        self, optimizer: Any, stage: int = 1, steps: int = 1, precision: str = "fp32"
    ) -> None:
        self.optimizer = optimizer
        self.global_steps = steps
        self.skipped_steps = 0
        self._stage = stage
        self._precision = precision

    def bfloat16_enabled(self) -> bool:
        return self._precision == "bf16"

    def fp16_enabled(self) -> bool:
        return self._precision == "fp16"

    def gradient_clipping(self) -> float:
        return 1.0

    def zero_optimization_stage(self) -> int:
        return self._stage


def prepared(engine: Any) -> DeepSpeedStrategy:
    strategy = DeepSpeedStrategy()
    strategy.prepared(None, engine)
    return strategy


def test_status_is_pending_before_an_engine_is_there() -> None:
    status = DeepSpeedStrategy().status()
    assert (status.status, status.evidence) == (Status.PENDING, {})


@pytest.mark.parametrize(("partitions", "stage"), [(1, 1), (2, 1), (4, 2)])
def test_status_is_engaged_with_a_fair_share(partitions: int, stage: int) -> None:
    optimizer = DeepSpeedZeroOptimizer(1000, partitions, 1000 // partitions)
    status = prepared(DeepSpeedEngine(optimizer, stage, steps=3)).status()
    assert status.status is Status.ENGAGED
    assert status.evidence == {
        "engine": "DeepSpeedEngine",
        "zero_stage": stage,
        "zero_optimizer": "DeepSpeedZeroOptimizer",
        "precision": "fp32",
        "steps": 3,
        "skipped_steps": 0,
        "partitions": partitions,
        "partition_elements": 1000 // partitions,
        "optimizer_state_bytes": 8000 // partitions,
        "optimizer_state_bytes_whole": 8000,
        "optimizer_state_share": 1 / partitions,
    }


@pytest.mark.parametrize("engine_precision", ["fp32", "fp16"])
def test_status_fell_back_in_another_precision(engine_precision: str) -> None:
    strategy = DeepSpeedStrategy()
    strategy.problems(cpu(precision="bf16"))
    optimizer = DeepSpeedZeroOptimizer(1000, 2, 500)
    strategy.prepared(None, DeepSpeedEngine(optimizer, precision=engine_precision))
    status = strategy.status()
    assert status.status is Status.FELL_BACK
    assert "bf16 was asked for" in str(status.reason)


def test_status_allows_for_padding_and_rounding() -> None:
    # 1000 parameters are padded to 1002, of which each of six processes holds 167: 0.1667.
    status = prepared(DeepSpeedEngine(DeepSpeedZeroOptimizer(1002, 6, 167))).status()
    assert status.status is Status.ENGAGED


@pytest.mark.parametrize("stepped", [True, False])
def test_status_is_pending_before_a_step(stepped: bool) -> None:
    optimizer = DeepSpeedZeroOptimizer(1000, 2, 500, stepped)
    status = prepared(DeepSpeedEngine(optimizer, steps=0)).status()
    assert status.status is Status.PENDING
    assert status.evidence["steps"] == 0
    assert "not made a step yet" in str(status.reason)


def test_status_fell_back_with_an_unfair_share() -> None:
    status = prepared(DeepSpeedEngine(DeepSpeedZeroOptimizer(1000, 2, 1000))).status()
    assert status.status is Status.FELL_BACK
    assert "holds 100% of the optimizer's state instead of 1/2" in str(status.reason)


@pytest.mark.parametrize("stage", [0, 3])
def test_status_fell_back_in_another_stage(stage: int) -> None:
    optimizer = DeepSpeedZeroOptimizer(1000, 2, 500)
    status = prepared(DeepSpeedEngine(optimizer, stage)).status()
    assert (status.status, status.reason) == (
        Status.FELL_BACK,
        f"the engine runs ZeRO stage {stage}",
    )


def test_status_fell_back_without_an_engine() -> None:
    status = prepared(torch.nn.Linear(1, 1)).status()
    assert status.status is Status.FELL_BACK
    assert "the prepared model is a Linear, not a DeepSpeed engine" in str(status.reason)


def test_status_is_not_engaged_by_an_optimizer_without_partitions() -> None:
    engine = DeepSpeedEngine(SimpleNamespace(optimizer=None))
    assert prepared(engine).status().status is Status.PENDING


def test_status_is_engaged_with_an_optimizer_without_state() -> None:
    optimizer = DeepSpeedZeroOptimizer(1000, 2, 500, stepped=False)
    partition = optimizer.single_partition_of_fp32_groups[0]
    optimizer.optimizer = torch.optim.SGD([partition], lr=0.1)
    assert prepared(DeepSpeedEngine(optimizer, steps=3)).status().status is Status.ENGAGED


def test_status_is_engaged_when_the_first_step_overflowed() -> None:
    optimizer: Any = DeepSpeedZeroOptimizer(1000, 2, 500, stepped=False)
    optimizer.overflow = True
    engine: Any = DeepSpeedEngine(optimizer, steps=1)
    engine.skipped_steps = 1
    assert prepared(engine).status().status is Status.ENGAGED


def test_close_lets_go_of_the_engine_and_remembers_the_status() -> None:
    engine = DeepSpeedEngine(DeepSpeedZeroOptimizer(1000, 2, 500))
    strategy = prepared(engine)
    before = strategy.status()
    strategy.close()
    assert strategy._engine is None
    engine.global_steps = 99
    assert strategy.status() == before
    strategy.close()  # again is allowed
    assert strategy.status() == before


def test_wrap_model_starts_evidence_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = prepared(DeepSpeedEngine(DeepSpeedZeroOptimizer(1000, 2, 500)))
    strategy.close()
    strategy.wrap_model(torch.nn.Linear(1, 1))
    assert strategy.status().status is Status.PENDING


def test_tensor_bytes_counts_tensors_only() -> None:
    state = {"step": 3, "exp_avg": torch.zeros(10), "half": torch.zeros(3, dtype=torch.float16)}
    assert module.tensor_bytes(state) == 46
