"""`compile`: regions, counts and refusals; torch's real tracing and a back end that is quick."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.backends.debugging import aot_eager

from acpt_trainer import toolchain
from acpt_trainer.errors import GraphBuildError, NotEngagedError
from acpt_trainer.registry import get_strategy
from acpt_trainer.strategies.base import Status, TrainingContext
from acpt_trainer.strategies.blocks import repeated_blocks
from acpt_trainer.strategies.compile import CompileStrategy

CPU = TrainingContext("fp32", "cpu")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.tanh(self.inner(x))


class Model(nn.Module):
    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.cached: list[bool | None] = []

    def forward(self, x: torch.Tensor, use_cache: bool | None = None) -> torch.Tensor:
        self.cached.append(use_cache)
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x.square().mean()


class Broken(nn.Module):
    """A forward pass that falls apart in two graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inner(x)
        torch._dynamo.graph_break()
        return torch.tanh(x).sum()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The real tracing, guards and autograd; only inductor's kernels are left out."""
    monkeypatch.setattr(
        "torch._inductor.compile_fx.compile_fx",
        lambda graph, inputs, config_patches: aot_eager(graph, inputs),
    )
    yield
    torch._dynamo.reset()


def compiled(model: nn.Module, **options: Any) -> CompileStrategy:
    strategy = CompileStrategy(**options)
    assert strategy.problems(CPU) == []
    assert strategy.wrap_model(model) is model
    return strategy


def test_regions_are_the_repeated_blocks_or_the_whole() -> None:
    model = Model()
    assert repeated_blocks(model) == list(model.blocks)
    assert repeated_blocks(nn.Sequential(Model(2), nn.Linear(1, 1)))
    assert repeated_blocks(Model(1)) == []
    mixed = nn.ModuleList([nn.Linear(1, 1), Block()])
    assert repeated_blocks(mixed) == []
    assert compiled(model).status().evidence["regions"] == {"Block": 3}
    assert compiled(Model(1)).status().evidence["regions"] == {"Model": 1}
    assert compiled(Model(), regions="whole").status().evidence["regions"] == {"Model": 1}


@pytest.mark.parametrize("regions", ["blocks", "whole"])
def test_compile_trains_with_pytorch_s_gradients(regions: str) -> None:
    model = Model()
    plain, inputs = copy.deepcopy(model), torch.randn(5, 4)
    strategy = compiled(model, regions=regions)
    assert strategy.status().status is Status.PENDING

    loss, expected = model(inputs), plain(inputs)
    assert strategy.status().status is Status.PENDING  # no backward pass yet
    loss.backward()
    expected.backward()

    torch.testing.assert_close(loss, expected)
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
    status = strategy.status()
    assert status.status is Status.ENGAGED
    assert status.evidence["grad_fn"] == "CompiledFunctionBackward"
    assert status.evidence["graphs"] == 1  # one for all three blocks
    assert status.evidence["forward_calls"] == (3 if regions == "blocks" else 1)
    assert status.evidence["parameters_in_regions"] == (0.75 if regions == "blocks" else 1.0)


def test_compile_leaves_keys_copies_and_evaluation_plain() -> None:
    model = Model()
    names = list(model.state_dict())
    strategy = compiled(model)
    assert list(model.state_dict()) == names
    assert "forward" in vars(model.blocks[0])

    copied = copy.deepcopy(model)
    model.eval()(torch.randn(2, 4)).backward()
    with torch.no_grad():
        model.train()(torch.randn(2, 4))
    copied.train()(torch.randn(2, 4)).backward()
    assert strategy.status().evidence["graphs"] == 0

    strategy.close()
    assert "forward" not in vars(model.blocks[0])
    assert not torch._dynamo.config.fail_on_recompile_limit_hit
    assert strategy.status().status is Status.PENDING


def test_compile_makes_changing_sizes_dynamic() -> None:
    model = Model()
    strategy = compiled(model)
    for size in (5, 6, 7, 8, 9):
        model(torch.randn(size, 4)).backward()

    evidence = strategy.status().evidence
    assert evidence["graphs"] == 2
    assert len(evidence["recompiles"]) == 1
    assert "expected 5, actual 6" in evidence["recompiles"][0]
    assert evidence["compile_seconds"] > 0


def test_compile_counts_graph_breaks_with_the_reason() -> None:
    model = Broken()
    strategy = compiled(model)
    model(torch.randn(2, 4)).backward()

    evidence = strategy.status().evidence
    assert evidence["graphs"] == 2
    ((reason, count),) = evidence["graph_breaks"].items()
    assert count == 1
    assert "graph_break()" in reason


def test_compile_stops_where_it_would_compile_without_end() -> None:
    model = Model()
    compiled(model, dynamic=False, max_graphs=2)
    for size in (5, 6):
        model(torch.randn(size, 4)).backward()

    with pytest.raises(
        GraphBuildError, match="Block was compiled as often as is allowed"
    ) as caught:
        model(torch.randn(7, 4))
    assert "expected 5, actual 6" in str(caught.value)
    assert "where: Model.blocks.0" in str(caught.value)
    assert "max_graphs" in str(caught.value)


def test_compile_never_leaves_the_step_to_pytorch_in_silence() -> None:
    model = Model()
    compiled(model)
    with (
        torch.compiler.set_stance("force_eager"),
        pytest.raises(NotEngagedError, match="left Block to PyTorch: no reason was told"),
    ):
        model(torch.randn(2, 4))


def test_compile_says_why_a_region_is_left_to_pytorch() -> None:
    class Skipped(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch._dynamo.disable(torch.tanh)(x)

    compiled(model := Skipped())
    with pytest.raises(NotEngagedError, match="left Skipped to PyTorch: ") as caught:
        model(torch.randn(2, requires_grad=True))
    assert "no reason" not in str(caught.value)


def test_compile_names_what_the_back_end_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: Any, inputs: Any, config_patches: Any) -> Any:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", broken)
    model = Model()
    compiled(model)
    with pytest.raises(GraphBuildError, match=r"could not compile Block.*no such kernel"):
        model(torch.randn(2, 4))


def test_compile_switches_the_key_value_cache_off_while_training() -> None:
    model = Model()
    strategy = compiled(model)
    model(torch.randn(2, 4))
    model(torch.randn(2, 4), use_cache=True)
    model.eval()(torch.randn(2, 4))
    strategy.close()
    model.train()(torch.randn(2, 4))
    assert model.cached == [False, True, None, None]


def test_compile_shares_one_graph_between_the_layers_of_a_language_model() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=2, n_head=2, n_embd=8, vocab_size=16, n_positions=8)
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    config.bos_token_id = config.eos_token_id = 0
    model = GPT2LMHeadModel(config).train()
    plain, ids = copy.deepcopy(model), torch.arange(12).reshape(2, 6)
    strategy = compiled(model)
    for each in (model, plain):
        each(input_ids=ids, labels=ids).loss.backward()

    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
    status = strategy.status()
    assert status.status is Status.ENGAGED
    # With its key-value cache each layer would be a graph of its own.
    assert (status.evidence["graphs"], status.evidence["recompiles"]) == (1, [])


def test_compile_refuses_what_switches_it_off() -> None:
    with torch._dynamo.config.patch(suppress_errors=True, disable=True):
        first, second = CompileStrategy().problems(CPU)
    assert "TORCH_COMPILE_DISABLE" in first.where
    assert "TORCHDYNAMO_SUPPRESS_ERRORS" in second.where


def test_compile_refuses_options() -> None:
    strategy = CompileStrategy(regions="layers", dynamic="yes", max_graphs=0)  # type: ignore[arg-type]
    whats = [p.what for p in strategy.problems(CPU)]
    assert whats == ["regions is 'layers'", "dynamic is 'yes'", "max_graphs is 0"]

    context = TrainingContext("fp32", "cpu", 1, None, Model(1))
    (none,) = CompileStrategy(regions="blocks").problems(context)
    assert none.what == "Model has no repeated blocks to compile"


def test_compile_is_not_available_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = toolchain.Toolchain(None, None, None, True, "CXX=/nonexistent")
    monkeypatch.setattr(toolchain, "find", lambda: nothing)
    for name in ("compile", "ds_compile"):
        problem = get_strategy(name).problems()[-1]
        assert "a C++ compiler (package g++; looked for CXX=/nonexistent)" in problem.what
        assert "ninja" not in problem.what
    assert CompileStrategy().problems(CPU)
