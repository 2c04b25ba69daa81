"""A call traced without data: the same digest for the same graph, another for every other one."""

from __future__ import annotations

import importlib.util
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from acpt_trainer.ort import patches
from acpt_trainer.ort.call import Call
from acpt_trainer.ort.preview import NotTold, Preview, preview

FACTOR = 2.0


class Net(nn.Module):
    """A model with a bit of everything that an export depends on."""

    def __init__(self, width: int = 4, dropout: float = 0.5, layers: int = 1) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(layers)])
        self.head = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("order", torch.arange(width))
        self.register_buffer("shift", torch.zeros(width))
        self.table = torch.ones(width)  # neither a parameter nor a buffer: a constant of the graph

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> dict[str, Any]:
        """Names, a number and a nested output."""
        for layer in self.layers:
            x = layer(x)
        x = self.dropout(self.head(x)[..., self.order]) * FACTOR * self.table + self.shift
        return {"loss": x.sum() * scale, "parts": (x, None)}


@pytest.fixture(autouse=True)
def _started() -> Iterator[None]:
    if (
        importlib.util.find_spec("onnxruntime") is None
    ):  # a bare import would replace torch functions
        pytest.skip("needs the extra 'ort'")
    patches.start()
    yield
    patches.stop()


def told(model: nn.Module, x: torch.Tensor | None = None, **fixed: Any) -> Preview:
    x = torch.randn(3, 5, 4) if x is None else x
    return preview(Call(model, model.forward, ("x",), fixed), {"x": x})


def test_preview_tells_structure_and_outputs() -> None:
    found = told(Net())
    # The last are the guarded values, see `reads`.
    assert found.outputs == ((0, torch.float32), (3, torch.float32), (1, torch.float64))
    parts = ("sequence", tuple, [("tensor", 1, False), ("constant", None)])
    assert found.structure == ("mapping", dict, [("loss", ("tensor", 0, False)), ("parts", parts)])


def test_preview_is_the_same_for_other_weights_and_shapes() -> None:
    digests = set()
    for seed, shape in enumerate(((3, 5, 4), (2, 9, 4), (7, 2, 4))):
        torch.manual_seed(seed)
        digests.add(told(Net(), torch.randn(shape)).digest)
    assert len(digests) == 1


def tied(model: Net) -> None:
    model.head.weight = model.layers[0].weight


def rewritten(model: Net) -> None:
    def forward(self: Net, x: torch.Tensor, scale: float = 1.0) -> Any:
        output = Net.forward(self, x, scale)
        return {**output, "loss": output["loss"].sin()}

    model.forward = forward.__get__(model)  # type: ignore[method-assign]


def same_name(model: Net) -> None:
    class Linear(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + 1

    Linear.__qualname__, Linear.__module__ = nn.Linear.__qualname__, nn.Linear.__module__
    model.head.__class__ = Linear


CHANGES: dict[str, Callable[[Net], Any]] = {
    "dropout": lambda m: setattr(m.dropout, "p", 0.25),
    "dropout-off": lambda m: m.dropout.eval(),
    "frozen": lambda m: m.head.requires_grad_(False),
    "half": lambda m: m.half(),
    "tied": tied,
    "no-bias": lambda m: setattr(m.head, "bias", None),
    "order": lambda m: m.order.copy_(m.order.flip(0)),
    "constant": lambda m: m.table.mul_(2),
    "forward": rewritten,
    "class-of-the-same-name": same_name,
    "another-class": lambda m: setattr(m.dropout, "__class__", nn.AlphaDropout),
    "hook": lambda m: m.head.register_forward_hook(lambda module, args, output: -output),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_preview_is_another_for_another_model(change: Callable[[Net], Any]) -> None:
    model = Net()
    before = told(model).digest
    change(model)
    dtype = next(model.parameters()).dtype
    assert told(model, torch.randn(3, 5, 4, dtype=dtype)).digest != before


def test_preview_is_another_for_another_config_call_or_global(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digests = [
        told(Net()).digest,
        told(Net(layers=2)).digest,
        told(Net(width=5), torch.randn(3, 5, 5)).digest,
        told(Net(), torch.randn(3, 4)).digest,
        told(Net(), torch.randn(1, 5, 4)).digest,
        told(Net(), torch.randn(3, 5, 4, requires_grad=True)).digest,
        told(Net(), scale=2.0).digest,
        told(Net(), scale=math.nextafter(2.0, 3)).digest,
    ]
    with torch.autocast("cpu", torch.bfloat16):
        digests.append(told(Net()).digest)
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    digests.append(told(Net()).digest)
    assert len(set(digests)) == len(digests)


def test_preview_follows_branches_on_shapes() -> None:
    class Branching(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(x)["loss"] * (2 if x.shape[1] > 4 else 3)

    assert told(Branching(), torch.randn(3, 5, 4)).digest != (
        told(Branching(), torch.randn(3, 4, 4)).digest
    )


class Looking(Net):
    """Branches on data."""

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> Any:
        return x if x.sum() > 0 else -x


class Calling(Net):
    """Runs a Python function of its own in the graph."""

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> Any:
        return Squared.apply(self.head(x))


class Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad


class Counting(Net):
    """Fails."""

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> Any:
        raise ValueError("no\nreason")


class Uncopied(Net):
    """Cannot be copied."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("there is only one")


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Looking, "its trace without data fails: DataDependent"),
        (Calling, r"it calls what the graph does not show \(prim::PythonOp\)"),
        (Counting, "its trace without data fails: ValueError: no$"),
        (Uncopied, "its trace without data fails: TypeError: there is only one"),
    ],
)
def test_preview_says_why_a_call_is_not_told(model: type[Net], why: str) -> None:
    with pytest.raises(NotTold, match=why):
        told(model())


def test_preview_leaves_model_random_states_and_exporter_as_they_were() -> None:
    class Rolling(Net):
        def forward(self, x: torch.Tensor, scale: float = 1.0) -> Any:
            seen.append(torch.onnx.is_in_onnx_export())
            rolled.append(random.random() + torch.rand(()).item())
            return super().forward(x)

    import torch.onnx

    seen: list[bool] = []
    rolled: list[float] = []
    model = Rolling()
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.randn(3, 5, 4)
    states = (random.getstate(), torch.get_rng_state())

    told(model, x)

    assert seen == [True]
    assert not torch.onnx.is_in_onnx_export()
    assert rolled
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    assert all(torch.equal(model.state_dict()[name], value) for name, value in tensors.items())
