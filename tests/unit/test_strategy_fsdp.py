"""`fsdp`: what it refuses, what it shows Accelerate, and its evidence on a group of one."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from acpt_trainer.checkpoints import checkpoint_problems
from acpt_trainer.integration import is_sharded, optimizer_state_bytes
from acpt_trainer.registry import get_strategy
from acpt_trainer.strategies.base import Status, TrainingContext
from acpt_trainer.strategies.blocks import ends_are_shared, shared_weight
from acpt_trainer.strategies.fsdp import FsdpStrategy

TWO = TrainingContext("fp32", "cpu", 2)


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


def test_fsdp_in_bf16_reduces_and_returns_fp32(group: None) -> None:
    from torch.distributed.fsdp import fully_shard

    strategy = FsdpStrategy()
    strategy.problems(TrainingContext("bf16", "cpu", 2))
    policy = strategy._plugin_arguments()["mixed_precision_policy"]
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    fully_shard(model[0], mp_policy=policy)
    fully_shard(model, mp_policy=policy)
    strategy.prepared(None, model)

    inside: list[torch.dtype] = []
    model[0].register_forward_hook(lambda _, given, out: inside.append(out.dtype))
    out = model(torch.randn(3, 4))
    out.sum().backward()

    assert inside == [torch.bfloat16]
    assert out.dtype == torch.float32
    assert strategy.status().evidence["precision"] == "bf16"
    assert policy.reduce_dtype == torch.float32


class Shared(nn.Module):
    """Blocks, and what the test makes them share."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 4)) for _ in "12")
        self.head = nn.Linear(4, 5)

    def get_input_embeddings(self) -> nn.Module:
        return self.embed

    def get_output_embeddings(self) -> nn.Module:
        return self.head


def test_fsdp_refuses_weights_that_blocks_share() -> None:
    model = Shared()
    context = TrainingContext("fp32", "cpu", 2, None, model)
    assert FsdpStrategy().problems(context) == []
    model.blocks[1][0].weight = model.blocks[0][0].weight
    (problem,) = FsdpStrategy().problems(context)
    assert problem.where == "Shared.blocks.1.0.weight"
    assert "strategy='ds'" in problem.fix
    model = Shared()
    model.head.weight = model.blocks[0][0].weight
    assert shared_weight(model) == "head.weight"


def test_ends_that_only_share_with_each_other_are_one_unit() -> None:
    model = Shared()
    assert not ends_are_shared(model)
    model.head.weight = model.embed.weight
    assert not ends_are_shared(model)
    model.bias = model.head.bias  # as in BERT's masked language model
    assert ends_are_shared(model)
    model.get_input_embeddings = lambda: (_ for _ in ()).throw(NotImplementedError)  # type: ignore
    assert ends_are_shared(model)


def test_fsdp_gives_the_ends_back() -> None:
    model = Shared()
    model.bias = model.head.bias
    strategy = FsdpStrategy()
    strategy.wrap_model(model)
    assert model.get_output_embeddings() is None
    strategy.close()  # or `prepared`, where nothing goes wrong in between
    assert model.get_output_embeddings() is model.head


def test_fsdp_checkpoint_without_a_report_is_told_by_its_files(tmp_path: Any) -> None:
    for name in ("trainer_state.json", "pytorch_model_fsdp.bin", "optimizer.bin"):
        (tmp_path / name).write_text("{}")
    assert checkpoint_problems(tmp_path, FsdpStrategy(), 2) == []
    plain: Any = SimpleNamespace(checkpoint_format="torch", label="no_acc")
    (problem,) = checkpoint_problems(tmp_path, plain, 2)
    assert "was written by 'fsdp'" in problem.what
