"""The seam with Accelerate and Trainer: the only module that knows their internals.

A strategy is bound to one accelerator *instance*: every model that is prepared for training passes
through `accelerator.prepare`, whether DDP, DeepSpeed or nothing follows. Nothing global is changed
and no training loop is copied.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from acpt_trainer.errors import ConfigurationError, NotEngagedError, Problem, raise_if_any
from acpt_trainer.report import StrategyReport, versions
from acpt_trainer.strategies.base import AcceleratorStrategy, Status

if TYPE_CHECKING:
    from accelerate import Accelerator

logger = logging.getLogger(__name__)

TESTED = {"transformers": ("5.23", "5.24"), "accelerate": ("1.15", "1.16")}
"""First tested version and first untested one of the libraries behind the seam."""

ATTRIBUTE = "_acpt_binding"
"""Where an accelerator keeps its binding."""


class Binding:
    """A strategy bound to one accelerator.

    Args:
        accelerator: The accelerator; its `prepare`, `unwrap_model`, `get_state_dict` are extended.
        strategy: The strategy.
        precision: The precision that was settled on.
        owns: Tells which of the prepared objects is the model to train.

    Raises:
        ConfigurationError: If the accelerator compiles whatever it prepares.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        strategy: AcceleratorStrategy,
        precision: str,
        owns: Callable[[Any], bool],
    ) -> None:
        raise_if_any(_compiling_problems(accelerator), "Cannot bind a strategy")
        self.accelerator = accelerator
        self.strategy = strategy
        self.precision = precision
        self._owns = owns
        self._verified = False
        self._alone = False
        self._prepared_as: str | None = None
        self._optimizer: Any = None
        self._originals: dict[str, Any] = {}
        for name in ("prepare", "unwrap_model", "get_state_dict", "clip_grad_norm_"):
            self._extend(name, getattr(self, f"_{name}"))
        setattr(accelerator, ATTRIBUTE, self)

    def _extend(self, name: str, replacement: Callable[..., Any]) -> None:
        original = getattr(self.accelerator, name)
        self._originals[name] = original
        setattr(
            self.accelerator,
            name,
            functools.wraps(original)(functools.partial(replacement, original)),
        )

    # --- what is extended ------------------------------------------------------------------------

    def _prepare(self, original: Callable[..., Any], *objects: Any, **kwargs: Any) -> Any:
        owned = [i for i, candidate in enumerate(objects) if self._owns(candidate)]
        if not owned:
            return self._note_optimizer(original(*objects, **kwargs))
        position = owned[0]
        model = objects[position]
        _forget_evaluation(model)
        wrapped = self.strategy.wrap_model(model)
        result = original(*(wrapped if o is model else o for o in objects), **kwargs)
        prepared = result[position] if isinstance(result, (tuple, list)) else result
        self.strategy.prepared(self.accelerator, prepared)
        self._prepared_as = type(prepared).__name__
        bare = prepared is wrapped and not is_sharded(prepared)
        self._alone = self.accelerator.num_processes > 1 and bare
        self._verified = False
        return self._note_optimizer(result)

    def _note_optimizer(self, result: Any) -> Any:
        for item in result if isinstance(result, (tuple, list)) else (result,):
            if hasattr(item, "param_groups") and hasattr(item, "step"):
                self._optimizer = item
        return result

    def _unwrap_model(
        self, original: Callable[..., Any], model: Any, *args: Any, **kwargs: Any
    ) -> Any:
        inner = original(model, *args, **kwargs)
        while (peeled := self.strategy.unwrap_model(inner)) is not inner:
            inner = original(peeled, *args, **kwargs)
        return inner

    def _get_state_dict(
        self, original: Callable[..., Any], model: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Ties what the model ties.

        Under DeepSpeed Accelerate clones every tensor, so that tied weights would be written twice
        and a checkpoint's keys would depend on the strategy.
        """
        state = original(model, *args, **kwargs)
        plain = self.accelerator.unwrap_model(model)
        first: dict[int, str] = {}
        for name, parameter in plain.named_parameters(remove_duplicate=False):
            kept = first.setdefault(id(parameter), name)
            if kept != name and kept in state and name in state:
                state[name] = state[kept]
        return state

    def _clip_grad_norm_(
        self,
        original: Callable[..., Any],
        parameters: Any,
        max_norm: float,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Refuses a clipping that the engine would ignore: it clips by its own config."""
        engine = self.strategy.clips_to()
        if engine is not None and math.isfinite(max_norm) and max_norm != engine:
            raise ConfigurationError(
                [
                    Problem(
                        f"the script clips gradients to {max_norm}, and the engine clips to "
                        f"{engine or 'nothing'} inside its own step",
                        f"accelerator.clip_grad_norm_(parameters, {max_norm})",
                        "say it in the engine's config: get_strategy('ds').build("
                        f"config={{'gradient_clipping': {max_norm}}})",
                    )
                ],
                "Cannot clip gradients",
            )
        return original(parameters, max_norm, *args, **kwargs)

    # --- proof -----------------------------------------------------------------------------------

    def verify(self) -> None:
        """Makes sure, after the first step, that the strategy ran it.

        Raises:
            NotEngagedError: If it did not; training must stop.
        """
        if self._verified:
            return
        status = self.strategy.status()
        if status.status is not Status.ENGAGED:
            raise NotEngagedError(
                f"strategy {self.strategy.label!r} was asked for and did not run the first step "
                f"({status.status}): {status.reason}.\n"
                "    where: training stopped after the first step\n"
                "    fix:   mend what the reason says, or train with strategy='no_acc'"
            )
        if self._alone:
            raise NotEngagedError(
                f"each of the {self.accelerator.num_processes} processes trains alone: Accelerate "
                f"left the {self._prepared_as} without DDP, so gradients are not averaged.\n"
                "    where: training stopped after the first step\n"
                "    fix:   give the Trainer a plain model that no other accelerator prepared"
            )
        self._verified = True

    def report(self) -> StrategyReport:
        """What really ran so far."""
        status = self.strategy.status()
        return StrategyReport(
            strategy=self.strategy.label,
            status=str(status.status),
            reason=status.reason,
            precision=self.precision,
            device=self.accelerator.device.type,
            world_size=self.accelerator.num_processes,
            parallel=self._prepared_as,
            options=self.strategy.options(),
            evidence=dict(status.evidence),
            optimizer_state_bytes=optimizer_state_bytes(self._optimizer),
            checkpoint_format=self.strategy.checkpoint_format,
            versions=versions(),
        )

    def release(self) -> None:
        """Closes the strategy: the model is plain again. The accelerator stays bound."""
        self.strategy.close()


def _compiling_problems(accelerator: Any) -> list[Problem]:
    """Accelerate keeps one state a process: an accelerator takes an earlier one's compiler over."""
    plugin = getattr(getattr(accelerator, "state", None), "dynamo_plugin", None)
    if plugin is None or plugin.backend.value == "NO":
        return []
    return [
        Problem(
            f"this process already has an accelerator that compiles with {plugin.backend.value}, "
            "and so would this one",
            "Accelerator(dynamo_backend=...), made earlier",
            "train in a process of its own, or call AcceleratorState._reset_state(True) first",
        )
    ]


def is_sharded(model: Any) -> bool:
    """Whether FSDP2 has sharded a model: it does so in place, and this method is its own."""
    return hasattr(model, "set_requires_gradient_sync")


def _forget_evaluation(model: Any) -> None:
    """Lets a model that was evaluated before training be prepared for training as well.

    Evaluation marks the plain model as prepared, and Accelerate 1.15 then returns it as it is: over
    several processes without DDP, so that each silently trains alone.
    """
    from accelerate.utils import extract_model_from_parallel

    if model.__dict__.pop("_is_accelerate_prepared", False):
        extract_model_from_parallel(model, keep_fp32_wrapper=False)


def optimizer_state_bytes(optimizer: Any) -> int:
    """Bytes of optimizer state in this process, under any of Accelerate's and DeepSpeed's wrappers.

    Args:
        optimizer: A prepared optimizer, or None.
    """
    while optimizer is not None and hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return sum(
        _local(value).numel() * value.element_size()
        for state in getattr(optimizer, "state", {}).values()
        if isinstance(state, dict)
        for value in state.values()
        if hasattr(value, "element_size")
    )


def _local(tensor: Any) -> Any:
    """What of a tensor this process holds."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


_said: set[str] = set()


def check_versions() -> None:
    """Says, once a process and by name, what is outside the versions tested with the seam."""
    import importlib.metadata

    for name, (first, beyond) in TESTED.items():
        here = Version(importlib.metadata.version(name))
        if not Version(first) <= here < Version(beyond) and name not in _said:
            _said.add(name)
            logger.warning(
                "%s %s is outside the versions that acpt_trainer is tested with (>=%s, <%s)",
                name, here, first, beyond,
            )  # fmt: skip
