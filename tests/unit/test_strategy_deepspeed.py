"""`ds` without an engine: its options, what it refuses before training, and what it configures."""

from __future__ import annotations

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
from acpt_trainer.strategies.base import TrainingContext
from acpt_trainer.strategies.deepspeed import DeepSpeedStrategy
from acpt_trainer.strategies.deepspeed_build import PATIENCE, abandoned_builds
from acpt_trainer.strategies.deepspeed_config import DEFAULT_CONFIG

Args = Callable[..., Any]

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="needs the extra 'deepspeed'"
)


def cpu(args: Any = None, precision: str = "fp32") -> TrainingContext:
    return TrainingContext(precision, "cpu", 1, args)


def plain_args(**changed: Any) -> Any:
    """Arguments for what needs no DeepSpeed to be looked at."""
    return SimpleNamespace(**{"deepspeed": None, "fsdp": None, **changed})


# --- what a killed process left ------------------------------------------------------------------


def test_build_that_was_killed_is_refused_and_one_at_work_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    assert abandoned_builds() == []
    lock = tmp_path / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir()
    lock.touch()
    begun = lock.stat().st_mtime
    assert abandoned_builds(begun + PATIENCE) == []
    (problem,) = abandoned_builds(begun + 3600)
    assert "deepspeed_shm_comm was begun 60 minutes ago" in problem.what
    assert f"rm {lock}" in problem.fix


def test_builds_are_looked_for_where_torch_makes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils import cpp_extension

    monkeypatch.delenv("TORCH_EXTENSIONS_DIR")
    monkeypatch.setattr(cpp_extension, "get_default_build_root", lambda: str(tmp_path))
    lock = Path(cpp_extension._get_build_directory("deepspeed_shm_comm", False), "lock")
    lock.touch()
    (problem,) = abandoned_builds(lock.stat().st_mtime + 3600)
    assert problem.where == str(lock)


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


# --- configuring ---------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """No process group is made; notes that one would have been."""
    calls: list[bool] = []
    monkeypatch.setattr(module, "_start_single_process", lambda: calls.append(True))
    return calls


@needs_deepspeed
def test_configure_puts_the_config_where_the_arguments_would(
    make_args: Args, started: list[bool]
) -> None:
    args = make_args(per_device_train_batch_size=4, gradient_accumulation_steps=2, bf16=True)
    strategy = DeepSpeedStrategy({"zero_optimization": {"stage": 2}})
    strategy.configure(args)
    assert started == [True]
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
def test_accelerator_kwargs_hold_a_plugin_in_the_precision(
    precision: str, started: list[bool]
) -> None:
    from accelerate.utils import DeepSpeedPlugin

    kwargs = DeepSpeedStrategy(zero_stage=2).accelerator_kwargs(cpu(precision=precision))
    assert set(kwargs) == {"deepspeed_plugin"}
    assert started == [True]
    plugin = kwargs["deepspeed_plugin"]
    assert isinstance(plugin, DeepSpeedPlugin)
    assert plugin.zero_stage == 2
    assert plugin.deepspeed_config["bf16"]["enabled"] is (precision == "bf16")
    assert plugin.deepspeed_config["fp16"]["enabled"] is False


@needs_deepspeed
def test_precision_is_compared_with_the_arguments_where_there_are_some(make_args: Args) -> None:
    config = {"bf16": {"enabled": True}}
    (problem,) = DeepSpeedStrategy(config).problems(cpu(make_args()))
    assert "ds bf16.enabled=True vs hf bf16" in problem.what
    assert DeepSpeedStrategy(config).problems(cpu(make_args(bf16=True), "bf16")) == []
    (problem,) = DeepSpeedStrategy(config).problems(cpu())
    assert problem.what == "the config says bf16.enabled=true and the precision is fp32"


@needs_deepspeed
@pytest.mark.parametrize(
    "config",
    [{"optimizer": "AdamW"}, {"scheduler": 3}, {"optimizer": {"type": "AdamW", "params": 3}}],
    ids=repr,
)
def test_malformed_optimizer_is_a_problem_not_an_exception(
    make_args: Args, config: dict[str, Any]
) -> None:
    assert DeepSpeedStrategy(config).problems(cpu(make_args()))


@needs_deepspeed
def test_malformed_section_hides_no_other_problem(make_args: Args) -> None:
    config = {"bf16": True, "zero_optimization": {"stage": 3}, "gradient_clipping": 7.0}
    found = [p.what for p in DeepSpeedStrategy(config).problems(cpu(make_args()))]
    assert len(found) == 3
    for part in ("bf16 is True", "ZeRO stage 3", "gradient_clipping=7.0"):
        assert any(part in what for what in found)


@needs_deepspeed
@pytest.mark.parametrize(("said", "plugin"), [({}, 0.0), ({"gradient_clipping": 0.5}, 0.5)])
def test_accelerator_kwargs_clip_only_where_the_config_says_so(
    started: list[bool], said: dict[str, Any], plugin: float
) -> None:
    kwargs = DeepSpeedStrategy(said).accelerator_kwargs(cpu())
    assert kwargs["deepspeed_plugin"].deepspeed_config["gradient_clipping"] == plugin


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
