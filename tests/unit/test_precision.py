"""Precision: what was asked, what the device is good at, and what the arguments say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from acpt_trainer.errors import ConfigurationError
from acpt_trainer.precision import (
    apply_precision,
    best_precision,
    choose_precision,
    precision_of,
)
from acpt_trainer.registry import get_strategy
from acpt_trainer.strategies.base import AcceleratorStrategy

from .made_up_strategies import MadeUpStrategy

Devices = Callable[..., None]


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Devices:
    """Sets what the CPU and the GPU of this machine are good at."""

    def set_devices(avx: bool = False, amx: bool = False, cuda_bf16: bool = False) -> None:
        def supported(including_emulation: bool = True) -> bool:
            return including_emulation or cuda_bf16  # any GPU emulates bfloat16

        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)

    return set_devices


@pytest.mark.parametrize(
    ("device", "able", "best"),
    [
        ("cpu", {}, "fp32"),
        ("cpu", {"avx": True}, "bf16"),
        ("cpu", {"amx": True}, "bf16"),
        ("cpu", {"cuda_bf16": True}, "fp32"),
        ("cuda", {}, "fp16"),
        ("cuda", {"cuda_bf16": True}, "bf16"),
        ("cuda", {"avx": True}, "fp16"),
        ("mps", {"avx": True, "cuda_bf16": True}, "fp32"),
    ],
)
def test_best_precision(devices: Devices, device: str, able: dict[str, bool], best: str) -> None:
    devices(**able)
    assert best_precision(device) == best


@pytest.mark.parametrize(
    ("name", "device", "able", "chosen"),
    [
        ("no_acc", "cpu", {}, "fp32"),
        ("no_acc", "cpu", {"avx": True}, "bf16"),
        ("no_acc", "cuda", {}, "fp16"),
        ("no_acc", "cuda", {"cuda_bf16": True}, "bf16"),
        ("ds", "cpu", {}, "fp32"),
        ("ds", "cpu", {"amx": True}, "bf16"),
        ("ds", "cuda", {"cuda_bf16": True}, "bf16"),
        ("ort", "cpu", {"avx": True}, "fp32"),
        ("ort", "cuda", {}, "fp16"),
        ("ort", "cuda", {"cuda_bf16": True}, "fp32"),
        ("ds_ort", "cpu", {"avx": True}, "fp32"),
        ("ds_ort", "cuda", {}, "fp16"),
    ],
)
def test_choose_precision_auto(
    devices: Devices, name: str, device: str, able: dict[str, bool], chosen: str
) -> None:
    devices(**able)
    assert choose_precision("auto", get_strategy(name).build(), device) == chosen


def test_choose_precision_auto_keeps_to_what_the_strategy_trains_in(devices: Devices) -> None:
    devices()

    def auto(*trains_in: str) -> str | None:
        return choose_precision("auto", MadeUpStrategy(trains_in=trains_in), "cpu")

    assert auto("fp16", "fp32") == "fp32"  # no slow half precision is chosen for the user
    assert auto("fp16", "bf16") == "fp16"  # unless there is no other
    assert auto() == "fp32"


def test_choose_precision_leaves_what_was_said_alone(devices: Devices) -> None:
    devices(avx=True)
    strategy = MadeUpStrategy(trains_in=("fp32",))
    assert choose_precision(None, strategy, "cpu") is None
    for asked in ("fp32", "bf16", "fp16"):  # a wrong one is refused by the strategy, by name
        assert choose_precision(asked, strategy, "cpu") == asked


@pytest.mark.parametrize("asked", ["float16", "fp8", "", "BF16"])
def test_choose_precision_refuses_what_is_none(asked: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        choose_precision(asked, MadeUpStrategy(), "cpu")
    (problem,) = caught.value.problems
    assert problem.what == f"there is no precision {asked!r}"
    assert problem.fix == "give one of: auto, fp32, bf16, fp16"


@pytest.mark.parametrize(
    ("name", "cpu", "cuda"),
    [
        ("no_acc", {"bf16", "fp32"}, {"bf16", "fp16", "fp32"}),
        ("ort", {"fp32"}, {"fp16", "fp32"}),
        ("ds", {"bf16", "fp32"}, {"bf16", "fp16", "fp32"}),
        ("ds_ort", {"fp32"}, {"fp16", "fp32"}),
    ],
)
def test_strategies_train_in(name: str, cpu: set[str], cuda: set[str]) -> None:
    strategy: AcceleratorStrategy = get_strategy(name).build()
    assert set(strategy.precisions("cpu")) == cpu
    assert set(strategy.precisions("cuda")) == cuda


# --- in TrainingArguments ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "flags"),
    [
        ("fp32", (False, False, "no")),
        ("bf16", (True, False, "bf16")),
        ("fp16", (False, True, "fp16")),
    ],
)
def test_apply_precision_writes_all_three_places(
    make_args: Callable[..., Any], precision: str, flags: tuple[bool, bool, str]
) -> None:
    args = make_args()
    assert apply_precision(args, precision) == []
    assert (args.bf16, args.fp16, args.mixed_precision) == flags
    assert precision_of(args) == precision
    assert apply_precision(args, precision) == []  # agreeing is no contradiction


@pytest.mark.parametrize("asked", ["fp32", "fp16"])
def test_apply_precision_refuses_a_contradiction(make_args: Callable[..., Any], asked: str) -> None:
    args = make_args(bf16=True)
    (problem,) = apply_precision(args, asked)
    assert problem.what == f"precision={asked!r} and TrainingArguments(bf16=True) differ"
    assert problem.fix == "leave precision out, or set bf16=False"
    assert (args.bf16, args.fp16, args.mixed_precision) == (True, False, "bf16")


def test_apply_precision_names_fp16(make_args: Callable[..., Any]) -> None:
    args = make_args()
    args.fp16 = True
    (problem,) = apply_precision(args, "bf16")
    assert "TrainingArguments(fp16=True)" in problem.what


def test_precision_of_follows_the_environment(
    make_args: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert precision_of(make_args()) == "fp32"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    args = make_args()
    assert args.bf16 is False
    assert precision_of(args) == "bf16"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    assert precision_of(make_args()) == "fp8"  # not ours: every strategy refuses it by name


def test_apply_precision_goes_over_the_environment(
    make_args: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    args = make_args()
    assert apply_precision(args, "fp32") == []
    assert precision_of(args) == "fp32"
