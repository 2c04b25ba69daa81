"""A model's call as a graph can hold it: what goes in, what comes out, and copies of it."""

from __future__ import annotations

import copy
from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import CausalLMOutput

from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort.call import Call, rebound
from acpt_trainer.ort.nested import flatten, rebuild

Pair = namedtuple("Pair", "a b")
ONE, TWO = torch.tensor([1.0]), torch.tensor([2.0, 3.0])


class Kettle(nn.Module):
    """A model with a weight, to tell it from its copy."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor, scale: int = 1) -> dict[str, Any]:
        return {"y": self.body(x) * scale, "name": "tea"}


def test_call_takes_tensors_by_position_and_keeps_the_structure() -> None:
    model = Kettle()
    call = Call(model, model.forward, ("x",), {"scale": 3})
    flat = call(TWO)
    assert isinstance(flat, tuple)
    assert torch.equal(flat[0], model.body(TWO) * 3)
    assert set(call.restored(flat, {})) == {"y", "name"}
    assert "original" not in dict(call.named_modules())
    with pytest.raises(ValueError, match="zip"):
        call(TWO, TWO)


@pytest.mark.parametrize("training", [True, False])
def test_call_follows_the_model_s_training_mode(training: bool) -> None:
    model = Kettle().train(training)
    assert Call(model, model.forward, ("x",), {}).training is training


def test_copy_of_a_call_runs_the_copied_model_and_shares_the_structure() -> None:
    model = Kettle()
    call = Call(model, model.forward, ("x",), {"scale": 3})
    twin = copy.deepcopy(call)
    with torch.no_grad():
        twin.model.body.weight.zero_()  # type: ignore[union-attr,operator]
        twin.model.body.bias.zero_()  # type: ignore[union-attr,operator]
    assert torch.equal(twin(TWO)[0], torch.zeros(2))
    assert not torch.equal(call(TWO)[0], torch.zeros(2))
    assert twin.record is call.record
    assert (twin.names, twin.fixed) == (call.names, call.fixed)


def test_rebound_binds_a_method_of_the_model_alone() -> None:
    old, new = Kettle(), Kettle()
    assert rebound(old.forward, old, new).__self__ is new  # type: ignore[attr-defined]
    other = Kettle().forward
    assert rebound(other, old, new) is other
    assert rebound(len, old, new) is len


# --- outputs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        ONE,
        (ONE, TWO),
        [ONE, None, 3, "tea"],
        {"a": ONE, "b": {"c": (TWO, None)}},
        OrderedDict(a=ONE),
        Pair(ONE, [TWO]),
        CausalLMOutput(loss=ONE, logits=TWO),
        CausalLMOutput(logits=TWO, hidden_states=(ONE, TWO)),
        (),
    ],
    ids=lambda v: type(v).__name__,
)
def test_outputs_are_rebuilt_as_they_were(value: Any) -> None:
    flat: list[torch.Tensor] = []
    structure = flatten(value, flat)
    assert all(torch.is_tensor(t) for t in flat)
    moved = [t + 10 for t in flat]
    rebuilt = rebuild(structure, moved)
    assert type(rebuilt) is type(value)
    again: list[torch.Tensor] = []
    assert flatten(rebuilt, again) == structure
    assert all(a is m for a, m in zip(again, moved, strict=True))


def test_outputs_that_cannot_leave_a_graph_are_refused() -> None:
    with pytest.raises(GraphBuildError, match=r"the model returns a builtins\.set"):
        flatten({"a": {1, 2}}, [])
