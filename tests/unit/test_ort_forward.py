"""The forward pass in place, as far as it goes without an engine: arguments and schema."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort import patches
from acpt_trainer.ort.build import TrainingGraph
from acpt_trainer.ort.call import Call
from acpt_trainer.ort.forward import OrtForward, attach, detach

ONE, TWO = torch.tensor([1.0]), torch.tensor([2.0, 3.0])


class Kettle(nn.Module):
    """A model whose forward takes all kinds of arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 2)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Any, mask: Any = None, use_cache: bool = True, **kwargs: Any) -> Any:
        """Boils."""
        return self.body(x)


@pytest.fixture(autouse=True)
def no_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "start", lambda: ())


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Graphs that run the model itself; gives the schema of each one built."""
    schemas: list[dict[str, Any]] = []

    def build(
        self: OrtForward, schema: Any, tensors: Any, fixed: Any, reasons: Any, seed: Any
    ) -> Any:
        self._report_rebuild(schema, reasons)
        schemas.append(schema)
        seen = Call(self.model, self.original, tuple(tensors), fixed)
        summary = SimpleNamespace(dropout_ops=0)
        graph = TrainingGraph(seen, seen, schema, (), summary)  # type: ignore[arg-type]
        return graph, seen(*tensors.values())

    monkeypatch.setattr(OrtForward, "_build", build)
    return schemas


# --- in place ------------------------------------------------------------------------------------


def test_attach_replaces_forward_alone_and_detach_undoes_it() -> None:
    model = Kettle()
    own, keys = model.forward, list(model.state_dict())
    ort = attach(model, max_graphs=3)
    assert model.forward is ort
    assert (ort.max_graphs, ort.__name__, ort.__doc__) == (3, "forward", "Boils.")
    assert list(ort.__signature__.parameters) == ["x", "mask", "use_cache", "kwargs"]
    assert list(model.state_dict()) == keys
    assert type(model) is Kettle
    detach(model)
    assert "forward" not in model.__dict__
    assert model.forward == own
    detach(model)  # again is allowed


def test_release_gives_back_a_forward_of_the_instance() -> None:
    model = nn.Linear(2, 2)
    mine = model.forward = lambda input: input  # type: ignore[method-assign,assignment]
    attach(model).release()
    assert model.forward is mine


def test_release_leaves_what_was_put_around_it_and_passes_through(
    built: list[dict[str, Any]],
) -> None:
    model = Kettle()
    ort = attach(model)
    model.forward = lambda *a, **k: ort(*a, **k)  # type: ignore[method-assign,assignment]
    around = model.forward
    ort.release()
    assert model.forward is around
    assert torch.equal(model(TWO), model.body(TWO))
    assert built == []
    assert ort.graphs == {}


def test_release_leaves_the_patches_once(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[bool] = []
    monkeypatch.setattr(patches, "stop", lambda: stopped.append(True))
    ort = attach(Kettle())
    ort.release()
    ort.release()  # again is allowed
    detach(ort.model)
    assert stopped == [True]


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
    ],
    ids=["deepcopy", "pickle"],
)
def test_copy_of_the_model_gets_its_own_forward(duplicate: Any) -> None:
    model = Kettle().eval()
    attach(model)
    twin = duplicate(model)
    with torch.no_grad():
        twin.body.weight.zero_()
        twin.body.bias.zero_()
    assert not isinstance(twin.forward, OrtForward)
    assert torch.equal(twin(TWO), torch.zeros(2))
    assert not torch.equal(model(TWO), torch.zeros(2))


def test_forward_is_the_models_own_outside_training(built: list[dict[str, Any]]) -> None:
    model = Kettle()
    ort = attach(model)
    with torch.no_grad():
        model(TWO)
    model.eval()
    model(TWO)
    assert (built, ort.calls) == ([], 0)
    model.train()
    model(TWO)
    assert (len(built), ort.calls) == (1, 1)


def test_forward_counts_passes(built: list[dict[str, Any]]) -> None:
    model = Kettle()
    ort = attach(model)
    output = model(TWO)
    assert (ort.calls, ort.backward_calls) == (1, 0)
    output.sum().backward()
    assert (ort.calls, ort.backward_calls) == (1, 1)
    assert ort.grad_fn == type(output.grad_fn).__name__


# --- schema --------------------------------------------------------------------------------------


def run(model: nn.Module, x: torch.Tensor, **kwargs: Any) -> None:
    model(x, **kwargs)


def test_schema_is_the_same_for_other_shapes_and_values(built: list[dict[str, Any]]) -> None:
    model = Kettle()
    attach(model)
    for x in (torch.ones(3, 2), torch.zeros(5, 2)):
        run(model, x, num_items_in_batch=len(x))
    with torch.no_grad():
        model.body.weight.mul_(2)
    run(model, torch.ones(1, 2), num_items_in_batch=1)
    assert len(built) == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: run(m, torch.ones(2)), "tensor arguments"),
        (lambda m: run(m, torch.ones(3, 2, requires_grad=True)), "tensor arguments"),
        (lambda m: run(m, torch.ones(3, 2), labels=ONE), "tensor arguments"),
        (lambda m: run(m, torch.ones(3, 2), scale=2), "other arguments"),
        (lambda m: (m.body.bias.requires_grad_(False), run(m, torch.ones(3, 2))), "parameters"),
        (lambda m: (m.drop.eval(), run(m, torch.ones(3, 2))), "training mode of submodules"),
    ],
    ids=["rank", "requires-grad", "name", "value", "frozen", "mode"],
)
def test_schema_changes_are_named(
    built: list[dict[str, Any]], caplog: pytest.LogCaptureFixture, change: Any, named: str
) -> None:
    model = Kettle()
    attach(model)
    run(model, torch.ones(3, 2))
    assert caplog.messages == []
    change(model)
    assert len(built) == 2
    assert caplog.messages == [f"exporting the model again, since these changed: {named}"]


def test_schema_changes_with_autocast(built: list[dict[str, Any]]) -> None:
    model = Kettle()
    attach(model)
    run(model, torch.ones(3, 2))
    with torch.autocast("cpu", torch.bfloat16):
        run(model, torch.ones(3, 2))
    assert [s["autocast"] for s in built] == [None, torch.bfloat16]


def test_too_many_graphs_stop_training_with_what_changed(built: list[dict[str, Any]]) -> None:
    model = Kettle()
    ort = attach(model, max_graphs=2)
    for scale in (1, 2):
        run(model, TWO, scale=scale)
    run(model, TWO, scale=1)  # a known one is no further graph
    with pytest.raises(GraphBuildError) as caught:
        run(model, TWO, scale=3)
    for part in ("Kettle for the 3th time", "other arguments", "'scale', 3", "max_graphs="):
        assert part in str(caught.value)
    assert (len(ort.graphs), ort.calls) == (2, 3)
