"""`fsdp`: what it refuses, what it shows Accelerate, and its evidence on a group of one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from acpt_trainer.checkpoints import checkpoint_problems
from acpt_trainer.integration import is_sharded, optimizer_state_bytes
from acpt_trainer.registry import get_strategy
from acpt_trainer.strategies.base import Status, TrainingContext
from acpt_trainer.strategies.fsdp import FsdpStrategy

TWO = TrainingContext("fp32", "cpu", 2)


@pytest.fixture
def group() -> Iterator[None]:
    """A process group of one."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_fsdp_is_refused_on_one_process() -> None:
    assert FsdpStrategy().problems(TWO) == []
    (alone,) = FsdpStrategy().problems(TrainingContext("fp32", "cpu", 1))
    assert "shards over processes, and there is one" in alone.what
    assert "torchrun --nproc_per_node 2" in alone.fix


def test_fsdp_asks_for_version_2_and_whole_checkpoints(make_args: Callable[..., Any]) -> None:
    args = make_args()
    get_strategy("fsdp").build(reshard_after_forward=False).configure(args)
    assert args.fsdp_plugin_args["fsdp_version"] == 2
    assert args.fsdp_plugin_args["state_dict_type"] == "FULL_STATE_DICT"
    assert args.fsdp_plugin_args["reshard_after_forward"] is False
    assert "ACCELERATE_USE_FSDP" not in os.environ


def test_fsdp_without_shards_fell_back() -> None:
    strategy = FsdpStrategy()
    assert strategy.status().status is Status.PENDING
    strategy.prepared(None, nn.Linear(2, 2))
    status = strategy.status()
    assert status.status is Status.FELL_BACK
    assert "is a Linear without sharded parameters" in (status.reason or "")


@pytest.mark.usefixtures("group")
def test_fsdp_is_engaged_once_gradients_were_reduced_to_shards() -> None:
    from torch.distributed.fsdp import fully_shard

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    fully_shard(model[0])
    fully_shard(model)
    assert is_sharded(model)
    assert not is_sharded(nn.Linear(1, 1))
    strategy = FsdpStrategy()
    strategy.problems(TWO)
    strategy.prepared(None, model)
    assert model._get_name() == "Sequential"
    assert strategy.status().status is Status.PENDING

    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(3, 4)).sum().backward()
    optimizer.step()

    evidence = strategy.status().evidence
    assert (evidence["units"], evidence["sharded_parameters"]) == (2, 4)
    assert evidence["parameter_bytes_whole"] == (16 + 4 + 8 + 2) * 4
    assert evidence["parameter_bytes"] == evidence["parameter_bytes_whole"]  # the only process
    assert evidence["precision"] == "fp32"
    assert optimizer_state_bytes(optimizer) == 2 * 30 * 4 + 4 * 4  # moments, and step counts

    strategy.close()
    assert model._get_name() == "Sequential"
    assert strategy.status().evidence == evidence


def test_fsdp_checkpoint_without_a_report_is_told_by_its_files(tmp_path: Any) -> None:
    for name in ("trainer_state.json", "pytorch_model_fsdp.bin", "optimizer.bin"):
        (tmp_path / name).write_text("{}")
    assert checkpoint_problems(tmp_path, FsdpStrategy(), 2) == []
    plain: Any = SimpleNamespace(checkpoint_format="torch", label="no_acc")
    (problem,) = checkpoint_problems(tmp_path, plain, 2)
    assert "was written by 'fsdp'" in problem.what
