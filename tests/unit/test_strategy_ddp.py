"""`ddp`: refused on one process, and engaged by the reductions that it counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from acpt_trainer.registry import get_strategy
from acpt_trainer.strategies.base import Status, TrainingContext
from acpt_trainer.strategies.ddp import DdpStrategy

ACCELERATOR: Any = SimpleNamespace(mixed_precision="no", distributed_type="MULTI_CPU")


def test_ddp_is_refused_on_one_process_with_the_way_out() -> None:
    (problem,) = get_strategy("ddp").build().problems(TrainingContext("fp32", "cpu", 1))
    assert "'ddp' averages gradients over processes, and there is one" in problem.what
    assert "torchrun --nproc_per_node 2" in problem.fix
    assert "no_acc" in problem.fix
    assert get_strategy("ddp").build().problems(TrainingContext("fp32", "cpu", 2)) == []


def test_ddp_without_a_wrapper_fell_back() -> None:
    strategy = DdpStrategy()
    assert strategy.status().status is Status.PENDING
    strategy.prepared(ACCELERATOR, nn.Linear(2, 2))
    status = strategy.status()
    assert status.status is Status.FELL_BACK
    assert "is a Linear, not a DistributedDataParallel" in (status.reason or "")


@pytest.mark.usefixtures("group")
def test_ddp_is_engaged_once_a_gradient_was_reduced() -> None:
    plain = nn.Linear(3, 2)
    model = DistributedDataParallel(plain)
    strategy = DdpStrategy()
    strategy.prepared(ACCELERATOR, model)
    inputs = torch.arange(6.0).reshape(2, 3)

    assert strategy.status().status is Status.PENDING
    with model.no_sync():
        model(inputs).sum().backward()
    assert strategy.status().status is Status.PENDING  # accumulating is not averaging
    plain.zero_grad()
    model(inputs).sum().backward()

    status = strategy.status()
    assert status.status is Status.ENGAGED
    assert status.evidence["all_reduces"] == 1
    assert status.evidence["bytes_reduced"] == (6 + 2) * 4
    torch.testing.assert_close(plain.weight.grad, inputs.sum(0).expand(2, 3))


@pytest.mark.usefixtures("group")
def test_ddp_leaves_the_script_s_own_reduction() -> None:
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook

    model = DistributedDataParallel(nn.Linear(3, 2))
    model.register_comm_hook(None, fp16_compress_hook)
    strategy = DdpStrategy()
    strategy.prepared(ACCELERATOR, model)
    assert strategy.status().evidence["all_reduces"] == "by the script's own fp16_compress_hook"
