"""A model's call as a graph can hold it: tensors in, flat tensors out, the rest fixed."""

from __future__ import annotations

import contextlib
import copy
import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort import hooks, place, state
from acpt_trainer.ort.followed import Followed
from acpt_trainer.ort.nested import Structure, flatten, rebuild
from acpt_trainer.ort.origin import Origin, origin
from acpt_trainer.ort.reads import Guard, Reads, noted
from acpt_trainer.ort.settings import Attributes, refuse_changes, untraced
from acpt_trainer.ort.writes import Writes


@dataclass
class Record:
    """What was found out about a call while it was traced; shared by the copies of the call.

    Attributes:
        structure: Of what the model returns.
        returned: Number of tensors among it.
        untraced: The same where it was not traced; None where it always was.
        guards: What Python read from shapes; the last output of the graph has their values.
        checks: What Python looked at only to raise.
        written: Names of arguments that the forward writes into; a graph does not.
        failed_at: Where the model was when its forward raised.
        refusal: Why the forward was refused, if it was one of ours that raised.
        reached: For each output of the graph the names of the parameters and inputs to which a
            gradient of it flows in PyTorch.
    """

    structure: Structure | None = None
    returned: int = 0
    untraced: int | None = None
    guards: list[Guard] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    failed_at: place.Place | None = None
    refusal: str | None = None
    reached: list[frozenset[str]] = field(default_factory=list)

    def reached_from(self, outputs: Iterable[int]) -> frozenset[str]:
        """The names of what gradients of some outputs flow to."""
        return frozenset().union(*(self.reached[i] for i in outputs))


@dataclass(frozen=True)
class Nested:
    """An argument that holds tensors, without them, and the names under which they are passed."""

    structure: Structure
    names: tuple[str, ...]

    def __repr__(self) -> str:
        return f"{self.structure}"


class Call(nn.Module):  # type: ignore[misc]
    """What ORTModule sees: tensors in by position, a flat tuple of tensors out, the rest fixed."""

    def __init__(
        self,
        model: nn.Module,
        original: Callable[..., Any],
        names: Sequence[str],
        fixed: Mapping[str, Any],
        trained: Collection[str] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(names)
        self.trained = frozenset(trained)  # the names of inputs that get a gradient
        self.fixed = dict(fixed)
        self.record = Record()
        self.outputs: tuple[tuple[int, torch.dtype], ...] = ()  # rank and type of each
        self.export: Any = None  # how its export is come by; see `export`
        # Not a submodule and not a parameter: kept out of nn.Module's registries.
        object.__setattr__(self, "original", original)
        self.training = model.training

    def __deepcopy__(self, memo: dict[int, Any]) -> Call:
        model = copy.deepcopy(self.model, memo)
        original = rebound(self.original, self.model, model)
        twin = Call(model, original, self.names, self.fixed, self.trained)
        twin.record = self.record  # the copy is traced, this one is called
        memo[id(self)] = twin
        return twin

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Calls the original forward and keeps the structure of what it returns.

        ORTModule calls it twice, as it is and traced.
        """
        given = dict(zip(self.names, tensors, strict=True))
        self.record.failed_at = self.record.refusal = None  # of an earlier trace, without data
        reads, writes = Reads(self.model), Writes(self.model, given)
        try:
            with (
                noted(reads),
                state.unchanged_tensors(self.model),
                _without_caches(self.model),
                hooks.watched(self.model),
                Followed(writes) as followed,
            ):
                attributes = Attributes(self.model)
                output = self.original(**self._arguments(given))
                if attributes.changed():
                    # A cache stays the second time; a count or a result is set anew.
                    attributes = Attributes(self.model)
                    with untraced():
                        self.original(**self._arguments(given))
                    refuse_changes(self.model, attributes.set_anew())
            flat: list[torch.Tensor] = []
            known = {id(t): ("input", n) for n, t in given.items()}
            known |= {id(p): ("parameter", n) for n, p in _tensors(self.model)}
            self.record.structure = flatten(_without_cache(output), flat, known)
            followed.returned(flat)
        except Exception as error:
            self.record.failed_at = getattr(error, "where", place.of_error(self.model, error))
            # ORTModule keeps an error's text and loses the error.
            self.record.refusal = str(error) if isinstance(error, GraphBuildError) else None
            raise
        self.record.returned = len(flat)
        self._as_untraced(len(flat))
        self.record.guards, self.record.checks = reads.guards, reads.checks
        self.record.written = sorted(writes.arguments)
        nothing = self._nothing(tensors)
        flat = [_unfolded(t, nothing) for t in flat]
        every = (*flat, reads.output(nothing))
        self.outputs = tuple((tensor.dim(), tensor.dtype) for tensor in every)
        return every

    def _nothing(self, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        """An empty tensor that depends on an input, or else on a weight, and has no gradient."""
        some = tensors[0] if tensors else next(t for _, t in _tensors(self.model))
        empty = some.detach().reshape(-1)[:0]
        return empty.ne(empty).to(torch.float64)

    def _arguments(self, given: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        inside: set[str] = set()
        for name, value in self.fixed.items():
            if isinstance(value, Nested):
                arguments[name] = rebuild(value.structure, [given[n] for n in value.names])
                inside.update(value.names)
            else:
                arguments[name] = value
        return {**{n: t for n, t in given.items() if n not in inside}, **arguments}

    def _as_untraced(self, outputs: int) -> None:
        if not torch._C._is_tracing():
            self.record.untraced = outputs
        elif self.record.untraced not in (None, outputs):
            raise GraphBuildError(
                f"{type(self.model).__name__} returns {self.record.untraced} tensors, and "
                f"{outputs} while it is traced: a size among its outputs, or a part that asks "
                "whether it is traced"
            )

    def restored(self, outputs: Any, given: Mapping[str, torch.Tensor]) -> Any:
        """What the model would return, from what its graph returned.

        Args:
            outputs: The graph's outputs.
            given: The tensors that were passed.
        """
        flat = [outputs] if torch.is_tensor(outputs) else list(outputs)

        def known(part: Structure) -> torch.Tensor:
            kind, name = part
            return given[name] if kind == "input" else dict(_tensors(self.model))[name]

        assert self.record.structure is not None
        return rebuild(self.record.structure, flat[: self.record.returned], known)


def rebound(method: Callable[..., Any], old: nn.Module, new: nn.Module) -> Callable[..., Any]:
    """A model's method for a copy of the model; anything else as it is."""
    if getattr(method, "__self__", None) is old:
        return types.MethodType(method.__func__, new)  # type: ignore[attr-defined]
    return method


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _unfolded(output: torch.Tensor, nothing: torch.Tensor) -> torch.Tensor:
    """The same value, kept from being folded where it is a constant of the graph."""
    if not torch._C._is_tracing() or output.dtype is torch.bool:
        return output
    if origin(torch._C._get_value_trace(output)) is not Origin.CONSTANT:
        return output
    return output + nothing.sum().to(output.device, output.dtype)


def _without_cache(output: Any) -> Any:
    """An output without its key-value cache: prefix tuning passes one in, whatever is asked for."""
    name = "past_key_values"
    if not isinstance(output, Mapping) or not hasattr(output.get(name), "get_seq_length"):
        return output
    return type(output)(**{k: v for k, v in output.items() if k != name})


@contextlib.contextmanager
def _without_caches(model: nn.Module) -> Iterator[None]:
    """Switches the key-value cache off: it has no use in training and no ONNX form."""
    configs = {id(m.config): m.config for m in model.modules() if hasattr(m, "config")}
    on = [c for c in configs.values() if getattr(c, "use_cache", False) is True]
    for config in on:
        config.use_cache = False
    try:
        yield
    finally:
        for config in on:
            config.use_cache = True
