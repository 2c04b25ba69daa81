"""The seam with Accelerate, on a made-up accelerator: what is extended, proof, and environment."""

from __future__ import annotations

import importlib.metadata
import logging
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import accelerate
import pytest
import torch
from torch import nn

from acpt_trainer import integration
from acpt_trainer.accelerator import create_accelerator, strategy_report
from acpt_trainer.errors import ConfigurationError, NotEngagedError, Problem
from acpt_trainer.integration import (
    TESTED,
    Binding,
    check_versions,
    optimizer_state_bytes,
)
from acpt_trainer.launch import contained_environment, join_processes, launched_processes
from acpt_trainer.strategies.base import StrategyStatus

from .made_up_strategies import MadeUpEngine, MadeUpStrategy, Wrapped

ENGAGED = StrategyStatus.engaged({"steps": 1})


class Parallel:
    """What the made-up accelerator puts around a model, as DDP would."""

    def __init__(self, module: Any) -> None:
        self.module = module


class Accelerator:
    """An accelerator that prepares and peels without an engine, and notes what it was given."""

    def __init__(self, processes: int = 1, parallel: bool = True, **kwargs: Any) -> None:
        self.num_processes = processes
        self.parallel = parallel
        self.kwargs = kwargs
        self.device = torch.device("cpu")
        self.sync_gradients = True
        self.given: list[tuple[Any, ...]] = []
        self.done: list[str] = []

    def prepare(self, *objects: Any, **kwargs: Any) -> Any:
        """Prepares objects."""
        self.given.append((*objects, kwargs))
        out = tuple(
            Parallel(o) if self.parallel and isinstance(o, (nn.Module, Wrapped)) else o
            for o in objects
        )
        return out if len(out) > 1 else out[0]

    def unwrap_model(self, model: Any, keep: bool = False) -> Any:
        while isinstance(model, Parallel):
            model = model.module
        return model

    def clip_grad_norm_(self, parameters: Any, max_norm: float, norm_type: int = 2) -> float:
        self.clipped_to = max_norm
        return max_norm

    def get_state_dict(self, model: Any) -> dict[str, torch.Tensor]:
        """Clones every tensor, as Accelerate does under DeepSpeed."""
        plain = model
        while not isinstance(plain, nn.Module):
            plain = plain.module if isinstance(plain, Parallel) else plain.inner
        return {name: value.clone() for name, value in plain.state_dict().items()}

    def backward(self, loss: Any, **options: Any) -> None:
        self.done.append(f"backward {loss} {options}")

    def end_training(self) -> None:
        self.done.append("end_training")


def bind(
    model: Any, accelerator: Accelerator | None = None, **options: Any
) -> tuple[Any, MadeUpStrategy, Binding]:
    accelerator = accelerator or Accelerator()
    strategy = MadeUpStrategy(**options)
    binding = Binding(accelerator, strategy, "fp32", owns=lambda o: o is model)  # type: ignore[arg-type]
    return accelerator, strategy, binding


# --- what is extended ----------------------------------------------------------------------------


def test_binding_extends_the_instance_and_keeps_the_originals() -> None:
    accelerator, _, binding = bind(nn.Linear(1, 1))
    other = Accelerator()
    for name in ("prepare", "unwrap_model", "get_state_dict"):
        assert name in accelerator.__dict__
        assert name not in other.__dict__  # nothing global is changed
        assert binding._originals[name].__self__ is accelerator
        assert binding._originals[name].__func__ is getattr(Accelerator, name)
    assert accelerator.prepare.__doc__ == "Prepares objects."
    assert accelerator.prepare.__name__ == "prepare"


def test_prepare_passes_the_wrapped_model_and_keeps_positions() -> None:
    model, optimizer, loader = nn.Linear(1, 1), object(), object()
    accelerator, strategy, _ = bind(model)
    result = accelerator.prepare(optimizer, model, loader, device_placement=[True] * 3)
    given = accelerator.given[0]
    assert isinstance(given[1], Wrapped)
    assert given[1].inner is model
    assert (given[0], given[2], given[3]) == (optimizer, loader, {"device_placement": [True] * 3})
    assert (result[0], result[2]) == (optimizer, loader)
    assert isinstance(result[1], Parallel)
    assert strategy.calls == ["wrap made_up", "prepared made_up"]


def test_prepare_of_one_model_returns_one_object() -> None:
    model = nn.Linear(1, 1)
    accelerator, strategy, _ = bind(model)
    prepared = accelerator.prepare(model)
    assert isinstance(prepared, Parallel)
    assert isinstance(prepared.module, Wrapped)
    assert "prepared made_up" in strategy.calls


def test_prepare_leaves_other_objects_alone() -> None:
    accelerator, strategy, _ = bind(nn.Linear(1, 1))
    other = nn.Linear(1, 1)
    assert accelerator.prepare(other).module is other
    assert strategy.calls == []


def test_prepare_forgets_that_the_model_was_evaluated() -> None:
    model = nn.Linear(1, 1)
    model._is_accelerate_prepared = True  # type: ignore[assignment]
    accelerator, _, _ = bind(model)
    accelerator.prepare(model)
    assert not hasattr(model, "_is_accelerate_prepared")


def test_unwrap_peels_nested_wrappers() -> None:
    model = nn.Linear(1, 1)
    accelerator, strategy, _ = bind(model)
    prepared = accelerator.prepare(model)
    assert accelerator.unwrap_model(prepared) is model
    again = Parallel(Wrapped(Parallel(Wrapped(model, strategy)), strategy))
    assert accelerator.unwrap_model(again, keep=True) is model
    assert accelerator.unwrap_model(model) is model


class Tied(nn.Module):
    """Two names of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(3, 2)
        self.body = nn.Linear(2, 2)
        self.head = nn.Linear(2, 3, bias=False)
        self.head.weight = self.embedding.weight


def test_get_state_dict_ties_what_the_model_ties() -> None:
    model = Tied()
    accelerator, _, binding = bind(model)
    plain = binding._originals["get_state_dict"](model)
    assert plain["head.weight"] is not plain["embedding.weight"]
    state = accelerator.get_state_dict(accelerator.prepare(model))
    assert state["head.weight"] is state["embedding.weight"]
    assert set(state) == set(model.state_dict())
    assert torch.equal(state["body.weight"], model.body.weight)
    assert state["body.weight"] is not state["body.bias"]


# --- proof ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        StrategyStatus.pending("no step of mine yet"),
        StrategyStatus.fell_back("it ran elsewhere"),
    ],
    ids=lambda s: str(s.status),
)
def test_verify_raises_with_the_reason_unless_engaged(said: StrategyStatus) -> None:
    _, _, binding = bind(nn.Linear(1, 1), said=said)
    with pytest.raises(NotEngagedError) as caught:
        binding.verify()
    for part in ("'made_up'", str(said.status), str(said.reason), "where:", "fix:"):
        assert part in str(caught.value)


def test_verify_passes_when_engaged_and_asks_once() -> None:
    _, strategy, binding = bind(nn.Linear(1, 1), said=ENGAGED)
    binding.verify()
    strategy.said = StrategyStatus.fell_back("later")
    binding.verify()
    assert binding.report().status == "fell_back"  # not asked again, and not forgotten


def test_verify_asks_again_after_another_prepare() -> None:
    model = nn.Linear(1, 1)
    accelerator, strategy, binding = bind(model, said=ENGAGED)
    binding.verify()
    strategy.said = StrategyStatus.pending("prepared anew")
    accelerator.prepare(model)
    with pytest.raises(NotEngagedError, match="prepared anew"):
        binding.verify()


@pytest.mark.parametrize(
    ("processes", "parallel", "alone"),
    [(1, False, False), (2, True, False), (2, False, True), (1, True, False)],
)
def test_verify_notices_processes_that_train_alone(
    processes: int, parallel: bool, alone: bool
) -> None:
    model = nn.Linear(1, 1)
    accelerator, _, binding = bind(model, Accelerator(processes, parallel), said=ENGAGED)
    accelerator.prepare(model)
    if alone:
        with pytest.raises(NotEngagedError, match=r"each of the 2 processes trains alone.*DDP"):
            binding.verify()
    else:
        binding.verify()


def test_report_says_what_ran() -> None:
    model = nn.Linear(1, 1)
    accelerator, strategy, binding = bind(model, Accelerator(2), said=ENGAGED, level=4)
    strategy.label = "kettle"
    accelerator.prepare(model)
    report = binding.report()
    assert report.to_dict() | {"versions": {}} == {
        "strategy": "kettle",
        "status": "engaged",
        "reason": None,
        "precision": "fp32",
        "device": "cpu",
        "world_size": 2,
        "parallel": "Parallel",
        "options": {"level": 4},
        "evidence": {"steps": 1},
        "optimizer_state_bytes": 0,
        "checkpoint_format": "torch",
        "versions": {},
    }
    assert report.versions["torch"]
    assert strategy_report(accelerator) == report


def test_report_counts_the_prepared_optimizer() -> None:
    parameter = nn.Parameter(torch.ones(10))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.sum().backward()
    optimizer.step()
    accelerator, _, binding = bind(nn.Linear(1, 1))
    accelerator.prepare(SimpleNamespace(optimizer=optimizer), optimizer)
    assert binding.report().optimizer_state_bytes == 40


def test_strategy_report_needs_a_strategy() -> None:
    with pytest.raises(ValueError, match="no strategy is bound to this accelerator"):
        strategy_report(Accelerator())  # type: ignore[arg-type]


def test_release_closes_the_strategy() -> None:
    _, strategy, binding = bind(nn.Linear(1, 1))
    binding.release()
    assert strategy.calls == ["close made_up"]


def test_optimizer_state_bytes_sees_through_wrappers() -> None:
    parameter = nn.Parameter(torch.ones(10))
    optimizer = torch.optim.AdamW([parameter])
    assert optimizer_state_bytes(optimizer) == 0
    parameter.sum().backward()
    optimizer.step()
    nested = SimpleNamespace(optimizer=SimpleNamespace(optimizer=optimizer))
    assert optimizer_state_bytes(nested) == optimizer_state_bytes(optimizer) == 84  # and its step
    assert optimizer_state_bytes(None) == 0
    assert optimizer_state_bytes(object()) == 0


# --- versions and environment --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("transformers", "accelerate_", "warned"),
    [
        ("5.23.0", "1.15.0", []),
        ("5.23.7", "1.15.9", []),
        ("5.22.9", "1.15.0", ["transformers 5.22.9"]),
        ("5.24.0", "1.16.0", ["transformers 5.24.0", "accelerate 1.16.0"]),
        ("5.23.1", "0.34", ["accelerate 0.34"]),
    ],
)
def test_check_versions_warns_by_name(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    transformers: str,
    accelerate_: str,
    warned: list[str],
) -> None:
    assert TESTED == {"transformers": ("5.23", "5.24"), "accelerate": ("1.15", "1.16")}
    here = {"transformers": transformers, "accelerate": accelerate_}
    monkeypatch.setattr(importlib.metadata, "version", here.__getitem__)
    monkeypatch.setattr(integration, "_said", set())
    with caplog.at_level(logging.WARNING, integration.__name__):
        check_versions()
        check_versions()  # says nothing again
    assert len(caplog.messages) == len(warned)
    for message, name in zip(caplog.messages, warned, strict=True):
        assert message.startswith(f"{name} is outside the versions")


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


# --- create_accelerator --------------------------------------------------------------------------


@pytest.fixture
def accelerators(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Accelerator]]:
    """Accelerate's class replaced by the made-up one; gives what was created."""
    made: list[Accelerator] = []

    def create(**kwargs: Any) -> Accelerator:
        made.append(Accelerator(**kwargs))
        return made[-1]

    monkeypatch.setattr(accelerate, "Accelerator", create)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    return made  # type: ignore[return-value]


def test_create_accelerator_binds_the_strategy(accelerators: list[Accelerator]) -> None:
    strategy = MadeUpStrategy(said=ENGAGED, kwargs={"plugin": 1})
    made: Any = create_accelerator(strategy, precision="fp32", log_with="all")
    assert made is accelerators[0]
    assert made.kwargs == {"log_with": "all", "mixed_precision": "no", "plugin": 1}
    assert strategy_report(made).strategy == "made_up"


def test_create_accelerator_settles_the_precision(
    accelerators: list[Accelerator], monkeypatch: pytest.MonkeyPatch
) -> None:
    def mixed(**options: Any) -> str:
        made: Any = create_accelerator(MadeUpStrategy(trains_in=("fp32", "bf16")), **options)
        return str(made.kwargs["mixed_precision"])

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert mixed() == "bf16"
    assert mixed(precision="fp32") == "no"
    assert mixed(precision="bf16") == "bf16"
    assert mixed(precision=None) == "no"


def test_create_accelerator_refuses_what_the_strategy_decides(
    accelerators: list[Accelerator],
) -> None:
    kettle = Problem("the kettle is empty", "kettle", "fill it")
    with pytest.raises(ConfigurationError) as caught:
        create_accelerator(
            MadeUpStrategy(found=(kettle,)),
            precision="bf16",
            mixed_precision="bf16",
            deepspeed_plugin=object(),
        )
    whats = [p.what for p in caught.value.problems]
    assert len(whats) == 4  # all of them at once
    assert "mixed_precision is given beside a strategy" in whats
    assert "deepspeed_plugin is given beside a strategy" in whats
    assert kettle in caught.value.problems
    assert "strategy 'made_up'" in str(caught.value)
    assert accelerators == []


def test_create_accelerator_contains_the_environment(
    accelerators: list[Accelerator], monkeypatch: pytest.MonkeyPatch
) -> None:
    create = accelerate.Accelerator

    def meddle(**kwargs: Any) -> Any:
        os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
        return create(**kwargs)

    monkeypatch.setattr(accelerate, "Accelerator", meddle)
    create_accelerator(MadeUpStrategy(), precision="fp32")
    assert "ACCELERATE_USE_DEEPSPEED" not in os.environ


def test_create_accelerator_refuses_deepspeed_of_the_environment(
    accelerators: list[Accelerator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigurationError, match="DeepSpeed"):
        create_accelerator("no_acc", precision="fp32")


def test_created_accelerator_verifies_after_the_first_step(
    accelerators: list[Accelerator],
) -> None:
    strategy = MadeUpStrategy(said=StrategyStatus.pending("no step of mine yet"))
    made: Any = create_accelerator(strategy, precision="fp32")
    made.sync_gradients = False
    made.backward(1)
    made.backward(2)  # still accumulating: no optimizer step yet
    made.sync_gradients = True
    made.backward(3, retain_graph=True)
    with pytest.raises(NotEngagedError, match="no step of mine yet"):
        made.backward(4)
    assert made.done == ["backward 1 {}", "backward 2 {}", "backward 3 {'retain_graph': True}"]
    strategy.said = ENGAGED
    made.backward(5)
    made.end_training()
    assert made.done[-2:] == ["backward 5 {}", "end_training"]
    assert strategy.calls[-1] == "close made_up"


def test_created_accelerator_asks_the_strategy_about_the_model(
    accelerators: list[Accelerator],
) -> None:
    class Choosy(MadeUpStrategy):
        def problems(self, context: Any) -> list[Problem]:
            wrong = isinstance(context.model, nn.Bilinear)
            return [Problem("bilinear", "the model", "another one")] if wrong else []

    made: Any = create_accelerator(Choosy(), precision="fp32")
    with pytest.raises(ConfigurationError, match="bilinear"):
        made.prepare(nn.Bilinear(1, 1, 1))
    made.prepare(nn.Linear(1, 1))  # the refused one does not count


def test_created_accelerator_refuses_a_second_model(accelerators: list[Accelerator]) -> None:
    made: Any = create_accelerator(MadeUpEngine(), precision="fp32")
    model = nn.Linear(1, 1)
    made.prepare(model, object())
    made.prepare(model)  # the same one may be prepared anew
    with pytest.raises(ConfigurationError, match="a second model is prepared"):
        made.prepare(nn.Linear(1, 1))


def test_created_accelerator_refuses_two_models_at_once(accelerators: list[Accelerator]) -> None:
    made: Any = create_accelerator(MadeUpEngine(), precision="fp32")
    with pytest.raises(ConfigurationError, match="a second model is prepared"):
        made.prepare(nn.Linear(1, 1), nn.Linear(1, 1))
