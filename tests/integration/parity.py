"""Trains a model in ONNX Runtime and its copy in PyTorch, and compares them step by step."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from acpt_trainer.ort.forward import OrtForward, attach

Step = Callable[[nn.Module, Any], Any]


def numbers(*shape: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


BATCHES = [{"x": numbers(2 + i, 4, seed=i)} for i in range(3)]


class Net(nn.Module):
    """Two layers and a forward pass that is given as a function of the model and `x`."""

    def __init__(self, function: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.function = function
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self, x)


def plain(m: Net, x: torch.Tensor) -> torch.Tensor:
    return m.two(torch.tanh(m.one(x))).pow(2).mean()


def named_step(model: nn.Module, batch: dict[str, Any]) -> Any:
    return model(**batch)


def assert_same_gradients(ours: nn.Module, theirs: nn.Module, rtol: float = 1e-4) -> None:
    norms = [p.grad.norm().item() for p in theirs.parameters() if p.grad is not None]
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), f"{name}: only one has a gradient"
        if b.grad is not None:
            scale = max(b.grad.norm().item(), 1e-3 * max(norms))
            assert (a.grad - b.grad).norm() <= rtol * scale, f"{name}: the gradients differ"


def train_both(
    model: nn.Module,
    batches: Iterable[Any] = BATCHES,
    step: Step = named_step,
    between: Callable[[int, nn.Module], Any] | None = None,
    optimizer: Callable[..., Any] = torch.optim.SGD,
    learning_rate: float = 0.05,
    every: bool = False,
) -> OrtForward:
    """Asserts that loss, gradients and trained parameters are the same at every step.

    Args:
        model: Trained in ONNX Runtime; a copy of it in PyTorch.
        batches: One a step.
        step: Gives the loss, or an output with one.
        between: Called with the step's number and each of the two, before the step.
        optimizer: Makes the optimizer.
        learning_rate: Its learning rate.
        every: Whether it has the parameters that are frozen at first, too.

    Returns:
        The forward pass in place, with its counters.
    """
    reference = copy.deepcopy(model)
    forward = attach(model)
    pair = (model, reference)
    optimizers: list[Any] = [None, None]
    for number, batch in enumerate(batches):
        losses = []
        for i, m in enumerate(pair):
            if between is not None:
                between(number, m)
            if optimizers[i] is None:
                trained = [p for p in m.parameters() if every or p.requires_grad]
                optimizers[i] = optimizer(trained, lr=learning_rate)
            torch.manual_seed(number)
            m.zero_grad(set_to_none=True)
            output = step(m, batch)
            loss = getattr(output, "loss", output)
            loss.backward()
            losses.append(loss.item())
        ours, theirs = losses
        assert abs(ours - theirs) <= 1e-5 * max(abs(theirs), 1e-2), (number, losses)
        assert_same_gradients(*pair)
        for made in optimizers:
            made.step()
    for (name, a), b in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    assert forward.calls
    return forward


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors in nested sequences, mappings and dataclasses, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if dataclasses.is_dataclass(value) and not isinstance(value, dict):
        value = [getattr(value, f.name) for f in dataclasses.fields(value)]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []


def weighed(outputs: Any) -> torch.Tensor:
    """A loss of all outputs, whose gradient differs from element to element."""
    return sum(
        (i + 1) * (t * torch.linspace(0.5, 1.5, t.numel()).view(t.shape)).mean()
        for i, t in enumerate(tensors_in(outputs))
        if t.is_floating_point()
    )  # type: ignore[return-value]


def assert_same_tensors(ours: Any, theirs: Any) -> None:
    """Asserts that nested values are of the same structure and hold the same tensors."""
    assert type(ours) is type(theirs)
    pairs = list(zip(tensors_in(ours), tensors_in(theirs), strict=True))
    for number, (a, b) in enumerate(pairs):
        assert a.requires_grad == b.requires_grad, f"output {number}: requires_grad"
        torch.testing.assert_close(
            a, b, rtol=1e-4, atol=1e-5, msg=lambda m, n=number: f"output {n}: {m}"
        )


def same_in_both(
    model: nn.Module,
    batches: Iterable[tuple[tuple[Any, ...], dict[str, Any]]],
    loss: Callable[[Any], torch.Tensor] = weighed,
) -> OrtForward:
    """Asserts that outputs and all gradients are the same, those of the inputs too.

    Args:
        model: Run in ONNX Runtime; a copy of it in PyTorch.
        batches: Positional and named arguments, one pair a step.
        loss: Of the outputs; by default of all of them. They are compared after its backward.

    Returns:
        The forward pass in place.
    """
    reference = copy.deepcopy(model)
    forward = attach(model)
    steps = 0
    for number, batch in enumerate(batches):
        outputs, inputs = [], []
        for m in (model, reference):
            args, kwargs = copy.deepcopy(batch)
            m.zero_grad(set_to_none=True)
            torch.manual_seed(number)
            outputs.append(m(*args, **kwargs))
            loss(outputs[-1]).backward()
            inputs.append([t.grad for t in tensors_in([*args, kwargs]) if t.requires_grad])
        assert_same_tensors(*outputs)
        assert_same_gradients(model, reference)
        torch.testing.assert_close(*inputs, rtol=1e-4, atol=1e-6)
        steps += 1
    assert forward.calls == steps
    return forward
