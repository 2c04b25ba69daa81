"""What the launcher and the environment say: how many processes, and which engine."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
import torch

from acpt_trainer.launch import (
    contained_environment,
    foreign_engine_problems,
    join_processes,
    launched_processes,
    set_up_devices_anew,
)
from acpt_trainer.registry import get_strategy

# --- the environment -----------------------------------------------------------------------------


@pytest.mark.parametrize("before", [None, "true", "false"])
def test_contained_environment_puts_the_variable_back(
    monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    name = "ACCELERATE_USE_DEEPSPEED"
    if before is not None:
        monkeypatch.setenv(name, before)
    with contained_environment():
        os.environ[name] = "changed"
    assert os.environ.get(name) == before
    with pytest.raises(RuntimeError, match="inside"), contained_environment():  # noqa: PT012
        os.environ.pop(name, None)
        raise RuntimeError("inside")
    assert os.environ.get(name) == before


# --- processes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "processes"), [(None, 1), ("", 1), ("0", 1), ("1", 1), ("4", 4)])
def test_launched_processes(
    monkeypatch: pytest.MonkeyPatch, value: str | None, processes: int
) -> None:
    if value is not None:
        monkeypatch.setenv("WORLD_SIZE", value)
    assert launched_processes() == processes


class Args:
    """Arguments that see every process only when `use_cpu` is set, as on a machine without GPU."""

    def __init__(self, sees: int, device: str = "cpu", use_cpu: bool = False) -> None:
        self.sees = sees
        self.use_cpu = use_cpu
        self.dataloader_pin_memory = True
        self._setup_devices = "cached"
        self._device = torch.device(device)

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def world_size(self) -> int:
        return self.sees if self.use_cpu and "_setup_devices" not in self.__dict__ else 1


def test_join_processes_leaves_agreeing_arguments_alone() -> None:
    args: Any = Args(sees=1)
    assert join_processes(args) == []
    assert (args.use_cpu, args.dataloader_pin_memory) == (False, True)


def test_join_processes_makes_cpu_arguments_see_the_launcher(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    args: Any = Args(sees=2)
    assert join_processes(args) == []
    assert (args.use_cpu, args.world_size) == (True, 2)


@pytest.mark.parametrize("cuda", [False, True])
def test_join_processes_reports_what_it_cannot_mend(
    monkeypatch: pytest.MonkeyPatch, cuda: bool
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    args: Any = Args(sees=2, device="cuda" if cuda else "cpu")
    (problem,) = join_processes(args)
    assert problem.what.startswith("the launcher started 4 processes and the training arguments")
    assert problem.where == "WORLD_SIZE=4"
    assert args.use_cpu is not cuda


def test_set_up_devices_anew_looks_again(make_args: Callable[..., Any]) -> None:
    args = make_args()
    assert args.device.type == "cpu"
    before = vars(args)["_setup_devices"]
    vars(args)["_setup_devices"] = "stale"
    set_up_devices_anew(args)
    assert vars(args)["_setup_devices"] == before


# --- engines that nobody asked for ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["no_acc", "ort", "ddp", "fsdp", "compile", "ds", "ds_ort"])
@pytest.mark.parametrize(
    ("argument", "value", "what", "fix"),
    [
        ("deepspeed", "ds.json", "DeepSpeed", "strategy='ds'"),
        ("fsdp", True, "an FSDP setting", "strategy='fsdp'"),
        ("torch_compile", True, "a torch.compile setting", "strategy='compile'"),
        ("parallelism_config", object(), "tensor, context or sequence", "transformers.Trainer"),
    ],
)
def test_an_engine_in_the_arguments_is_refused(
    name: str, argument: str, value: Any, what: str, fix: str, make_args: Callable[..., Any]
) -> None:
    strategy, args = get_strategy(name).build(), make_args()
    assert foreign_engine_problems(strategy, args) == []
    setattr(args, argument, value)
    found = foreign_engine_problems(strategy, args)
    if argument == "deepspeed" and name.startswith("ds"):
        assert found == []  # its own engine, whose config it reads
        return
    (problem,) = found
    assert problem.what.startswith(f"strategy {name!r} is asked for together with {what}")
    assert problem.where.startswith(f"TrainingArguments({argument}=")
    assert fix in problem.fix


@pytest.mark.parametrize(
    ("variable", "value", "what"),
    [
        ("ACCELERATE_USE_DEEPSPEED", "true", "DeepSpeed"),
        ("ACCELERATE_USE_DEEPSPEED", "Y", "DeepSpeed"),
        ("ACCELERATE_USE_DEEPSPEED", "perhaps", "DeepSpeed"),
        ("ACCELERATE_USE_FSDP", "on", "an FSDP setting"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "a torch.compile setting"),
        ("ACCELERATE_USE_PARALLELISM_CONFIG", "1", "tensor, context or sequence parallelism"),
        ("ACCELERATE_USE_MEGATRON_LM", "true", "Megatron-LM"),
    ],
)
def test_an_engine_in_the_environment_is_refused(
    variable: str, value: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    (problem,) = foreign_engine_problems(get_strategy("no_acc").build())
    assert problem.what == f"strategy 'no_acc' is asked for together with {what}"
    assert problem.where == f"{variable}={value}"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ACCELERATE_USE_DEEPSPEED", "false"),
        ("ACCELERATE_USE_FSDP", "off"),
        ("ACCELERATE_USE_FSDP", ""),
        ("ACCELERATE_DYNAMO_BACKEND", "NO"),  # what `accelerate launch` sets by default
    ],
)
def test_an_engine_that_is_switched_off_is_no_problem(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    assert foreign_engine_problems(get_strategy("no_acc").build()) == []


@pytest.mark.parametrize("name", ["ds", "ds_ort"])
def test_deepspeed_strategies_may_be_launched_with_deepspeed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert foreign_engine_problems(get_strategy(name).build()) == []
