"""Name -> strategy: registering, looking up and combining. A look-up constructs nothing."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, overload

from acpt_trainer.errors import (
    IncompatibleStrategiesError,
    Problem,
    UnknownStrategyError,
)
from acpt_trainer.strategies.base import AcceleratorStrategy

logger = logging.getLogger(__name__)

ENTRY_POINTS = "acpt_trainer.strategies"
"""Entry-point group with which other packages register their strategies."""

StrategyClass = type[AcceleratorStrategy]
_C = TypeVar("_C", bound=StrategyClass)


@dataclass(frozen=True)
class StrategySpec:
    """A registered name: a class with preset options. Nothing is constructed until `build`.

    Attributes:
        name: The name.
        target: The class, or `"module:Class"`, imported at the first `load`.
        preset: Options given to the class unless `build` overrides them.
        description: One line for lists.
    """

    name: str
    target: StrategyClass | str
    preset: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""

    def load(self) -> StrategyClass:
        """The strategy class.

        Raises:
            ImportError: If the module that holds it cannot be imported.
        """
        if isinstance(self.target, str):
            module, _, attribute = self.target.partition(":")
            found = getattr(importlib.import_module(module), attribute)
        else:
            found = self.target
        if not (isinstance(found, type) and issubclass(found, AcceleratorStrategy)):
            raise TypeError(f"strategy {self.name!r}: {found!r} is not an AcceleratorStrategy")
        return found

    def build(self, **options: Any) -> AcceleratorStrategy:
        """Constructs the strategy.

        Args:
            **options: Options of the strategy, over the preset ones.

        Raises:
            ConfigurationError: If the strategy does not know an option.
        """
        cls = self.load()
        try:
            strategy = cls(**{**self.preset, **options})
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):
                raise
            raise UnknownStrategyError(
                [Problem(str(error), f"options of strategy {self.name!r}", f"see {cls.__name__}")]
            ) from error
        strategy.label = self.name
        return strategy

    def problems(self) -> list[Problem]:
        """What is missing on this machine for it to run; empty when it is available."""
        try:
            requires = self.load().requires
        except Exception as error:  # another package's fault must not hide the other names
            what = f"{type(error).__name__}: {error}"
            return [Problem(what, f"strategy {self.name!r}", "mend or uninstall its package")]
        found = [r.problem(self.name) for r in requires if not r.installed()]
        for part in self.preset.get("parts", ()):
            if isinstance(part, AcceleratorStrategy):
                found += [r.problem(self.name) for r in part.requires if not r.installed()]
            elif part in _registry:
                found += _registry[part].problems()
            else:
                what = f"its part {part!r} is not registered"
                found.append(Problem(what, f"strategy {self.name!r}", f"register {part!r}"))
        return found


_registry: dict[str, StrategySpec] = {}
_entry_points_loaded = False


@overload
def register_strategy(
    name: str, cls: None = ..., *, description: str = ..., override: bool = ..., **preset: Any
) -> Callable[[_C], _C]: ...
@overload
def register_strategy(
    name: str,
    cls: StrategyClass | str,
    *,
    description: str = ...,
    override: bool = ...,
    **preset: Any,
) -> StrategySpec: ...


def register_strategy(
    name: str,
    cls: StrategyClass | str | None = None,
    *,
    description: str = "",
    override: bool = False,
    **preset: Any,
) -> Any:
    """Registers a strategy under a name, as a call or as a decorator.

    Args:
        name: The name that users give. It may not contain `+`, which combines names.
        cls: The class or `"module:Class"`. Left out when used as a decorator.
        description: One line for lists; the class's own if left out.
        override: Replace a strategy of that name.
        **preset: Options that the name stands for.

    Returns:
        The registered `StrategySpec`, or a decorator that returns the class.

    Raises:
        ValueError: If the name is taken or contains `+`.

    Example:
        >>> @register_strategy("my_strategy", level=2)
        ... class MyStrategy(AcceleratorStrategy): ...
        >>> register_strategy("my_strategy_3", MyStrategy, level=3)
    """
    if not name or "+" in name or name != name.strip():
        raise ValueError(f"{name!r} is no strategy name: it may not be empty or contain '+'")
    if name in _registry and not override:
        raise ValueError(f"strategy {name!r} is already registered; pass override=True to replace")
    if cls is None:

        def decorate(decorated: _C) -> _C:
            register_strategy(name, decorated, description=description, override=override, **preset)
            return decorated

        return decorate
    line = description or (getattr(cls, "description", "") if not isinstance(cls, str) else "")
    _registry[name] = StrategySpec(name, cls, preset, line)
    return _registry[name]


def _load_entry_points() -> None:
    global _entry_points_loaded
    if _entry_points_loaded:
        return
    _entry_points_loaded = True
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        # Not imported here: one package's fault must not break another's look-up, and when the
        # name is asked for, its ImportError reaches the user.
        origin = point.dist.name if point.dist else "another package"
        if point.name in _registry:
            continue
        try:
            register_strategy(point.name, point.value, description=f"from {origin}")
        except ValueError as error:
            logger.warning("a strategy of %s is left out: %s", origin, error)


def available_strategies() -> tuple[str, ...]:
    """All registered names, sorted; `get_strategy(name).problems()` says what one is missing."""
    _load_entry_points()
    return tuple(sorted(_registry))


def get_strategy(name: str) -> StrategySpec:
    """Looks a name up; `a+b` combines strategies. Constructs nothing and imports no engine.

    Args:
        name: A registered name, or several joined with `+`.

    Returns:
        What `build()` makes the strategy from.

    Raises:
        UnknownStrategyError: If the name is not registered; says which one may be meant.
        IncompatibleStrategiesError: If the strategies cannot be combined.
    """
    if not isinstance(name, str):
        raise UnknownStrategyError([_not_a_strategy(name)], headline="Cannot look up a strategy")
    _load_entry_points()
    if "+" in name:
        return _combine(name)
    if name not in _registry:
        raise UnknownStrategyError([_unknown(name)], headline="Cannot look up a strategy")
    return _registry[name]


def resolve_strategy(strategy: str | AcceleratorStrategy) -> AcceleratorStrategy:
    """A strategy from a name or an instance.

    Args:
        strategy: A name for `get_strategy`, or a strategy, which is returned as it is.

    Raises:
        UnknownStrategyError: If it is neither, or the name is not registered.
        IncompatibleStrategiesError: If the combined strategies exclude each other.
    """
    if isinstance(strategy, AcceleratorStrategy):
        return strategy
    return get_strategy(strategy).build()


def _combine(name: str) -> StrategySpec:
    from acpt_trainer.strategies.combined import CombinedStrategy, conflicts

    parts = [part.strip() for part in name.split("+")]
    unknown = [part for part in parts if part not in _registry]
    if unknown:
        raise UnknownStrategyError([_unknown(p) for p in unknown], "Cannot combine strategies")
    specs = [_registry[part] for part in parts]
    found = conflicts([(spec.name, spec.load()) for spec in specs])
    if found:
        raise IncompatibleStrategiesError(
            [Problem(what, f"strategy={name!r}", fix) for what, fix in found],
            headline="Cannot combine strategies",
        )
    return StrategySpec(name, CombinedStrategy, {"parts": tuple(parts)}, " with ".join(parts))


def _unknown(name: str) -> Problem:
    def words(text: str) -> list[str]:
        return sorted(re.split("[-_+ ]", text.lower()))

    close = [known for known in _registry if words(known) == words(name)]
    close += difflib.get_close_matches(name.lower(), _registry, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    lines = []
    for known in sorted(_registry):
        missing = _registry[known].problems()
        lines.append(known if not missing else f"{known} (not here: {missing[0].fix})")
    return Problem(
        f"there is no strategy named {name!r}",
        f"strategy={name!r}",
        f"{hint}registered are: {', '.join(lines)}",
    )


def _not_a_strategy(value: object) -> Problem:
    return Problem(
        f"{value!r} is neither a strategy name nor an AcceleratorStrategy",
        f"strategy={value!r}",
        f"give one of: {', '.join(available_strategies())}",
    )


_BUILT_IN: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("no_acc", "eager:EagerStrategy",
     "PyTorch as it is, in mixed precision; DDP over several processes", {}),
    ("ort", "ortmodule:OrtStrategy",
     "forward and backward in ONNX Runtime training (ORTModule)", {}),
    ("ds", "deepspeed:DeepSpeedStrategy",
     "DeepSpeed ZeRO-1: each process keeps a share of the optimizer's state", {}),
    ("ds_ort", "combined:CombinedStrategy",
     "DeepSpeed ZeRO-1 around ONNX Runtime training", {"parts": ("ds", "ort")}),
    ("ddp", "ddp:DdpStrategy",
     "PyTorch as it is; DDP averages the gradients of several processes", {}),
    ("fsdp", "fsdp:FsdpStrategy",
     "FSDP2: each process keeps a share of all that is trained", {}),
    ("compile", "compile:CompileStrategy",
     "forward and backward compiled by torch.compile (inductor)", {}),
    ("ds_compile", "combined:CombinedStrategy",
     "DeepSpeed ZeRO-1 around the compiled model", {"parts": ("ds", "compile")}),
    ("auto", "auto:AutoStrategy",
     "tries the others when train() begins, and takes the fastest that computes the same", {}),
)  # fmt: skip
for _name, _class, _line, _preset in _BUILT_IN:
    register_strategy(_name, f"acpt_trainer.strategies.{_class}", description=_line, **_preset)
