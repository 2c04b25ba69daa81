"""Gradient checkpointing in ONNX Runtime: activations are computed again instead of being kept.

PyTorch's checkpointing cannot be exported. Where a model asks for it, the export sees the model
without, and ONNX Runtime's memory optimizer plans the same in its own graph, layer by layer.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort.mends import set_attribute, set_variable

if TYPE_CHECKING:
    from torch import nn

LEVEL = "ORTMODULE_MEMORY_OPT_LEVEL"
PLAN = "ORTMODULE_MEMORY_OPT_CONFIG"
LEVELS = (0, 1, 2)
"""Nothing; what each layer can repeat whole; also what it can repeat in part."""

_RANDOM = ("Dropout", "Random", "Bernoulli", "Multinomial")
_SUFFIX = "_recompute"


@dataclass(frozen=True)
class Recompute:
    """What ONNX Runtime computes a second time in the backward pass.

    Attributes:
        level: The level asked of its memory optimizer.
        operators: Operators that are computed again, and how often each occurs.
        estimated_saving_mb: Memory of the first batch that need not be kept, in 10^6 bytes, as
            ONNX Runtime estimates it.
    """

    level: int
    operators: dict[str, int] = field(default_factory=dict)
    estimated_saving_mb: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data for a report."""
        return asdict(self)


def asked_by(model: nn.Module) -> bool:
    """Whether PyTorch's gradient checkpointing is switched on in a model."""
    return any(getattr(m, "gradient_checkpointing", False) for m in model.modules())


def recomputes() -> bool:
    """Whether the graph that is being built computes anything again."""
    return os.environ.get(LEVEL, "0") != "0"


def level_for(model: nn.Module, option: int | None = None) -> int:
    """The level to build a model's graph with.

    Args:
        model: The model; asks for level 1 where its gradient checkpointing is switched on.
        option: The strategy's option, which goes before the environment and the model.
    """
    if option is not None:
        return int(option)
    if LEVEL in os.environ:
        return int(os.environ[LEVEL])
    return int(asked_by(model))


@contextlib.contextmanager
def planned(model: nn.Module, level: int) -> Iterator[str | None]:
    """Holds what an export and build with recompute needs.

    Args:
        model: The model; its own checkpointing is off inside.
        level: The level asked for.

    Yields:
        A folder in which ORTModule leaves the graph that runs; None without recompute.
    """
    with ExitStack() as stack:
        for module in model.modules():
            if getattr(module, "gradient_checkpointing", False):
                set_attribute(stack, module, "gradient_checkpointing", False)
        set_variable(stack, LEVEL, str(level))
        yield stack.enter_context(tempfile.TemporaryDirectory()) if level else None


def keep_random_numbers(stack: ExitStack) -> None:
    """Takes what draws random numbers out of the memory optimizer's plan; see `patches`."""
    observer = importlib.import_module(
        "onnxruntime.training.ortmodule._runtime_inspector"
    ).MemoryObserver
    find = observer.find_memory_optimization_opportunity

    @functools.wraps(find)
    def find_memory_optimization_opportunity(self: Any, agent: Any, options: Any) -> None:
        find(self, agent, options)
        if options.memory_optimization_level:
            path = options.memory_optimizer_config_file_path
            with open(path) as file:
                plans = json.load(file)
            with open(path, "w") as file:
                json.dump([p for p in plans if p and not _draws(p)], file)

    set_attribute(
        stack,
        observer,
        "find_memory_optimization_opportunity",
        find_memory_optimization_opportunity,
    )


def replace_checkpoint_calls(stack: ExitStack) -> None:
    """Lets a model's own calls of `torch.utils.checkpoint` through only where it recomputes."""
    checkpoint = importlib.import_module("torch.utils.checkpoint")

    def check() -> None:
        if not recomputes():
            raise GraphBuildError(
                "the model calls torch.utils.checkpoint, which has no effect in a graph; ONNX "
                "Runtime's own recompute, get_strategy('ort').build(recompute=1), takes its place"
            )

    class Inline:
        @staticmethod
        def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
            check()
            return function(*args)

    def without_saved_tensors(*_: Any, **__: Any) -> Iterator[None]:
        check()
        yield

    set_attribute(stack, checkpoint, "CheckpointFunction", Inline)
    set_attribute(
        stack, checkpoint, "_checkpoint_without_reentrant_generator", without_saved_tensors
    )


def _draws(plan: str) -> bool:
    return any(name in plan for name in _RANDOM)


def running(folder: str) -> Any:
    """The graph that runs, as ORTModule left it in a folder; see `planned`."""
    import onnx

    (name,) = (n for n in os.listdir(folder) if "execution_model" in n)
    return onnx.load(os.path.join(folder, name), load_external_data=False)


def evidence(module: Any, level: int, graph: Any, model: str) -> Recompute:
    """Reads from the graph that runs what is computed again.

    Args:
        module: The ORTModule.
        level: The level asked for.
        graph: The graph that runs.
        model: The model's class, for the message.

    Raises:
        GraphBuildError: If nothing is computed again, so that no memory is saved.
    """
    operators = Counter(n.op_type for n in graph.graph.node if n.name.endswith(_SUFFIX))
    if not operators:
        raise GraphBuildError(
            f"ONNX Runtime found nothing to compute again in the training graph of {model}, so "
            "gradient checkpointing would save no memory.\n"
            f"    where: recompute={level}\n"
            "    fix:   switch gradient checkpointing off (recompute=0) and lower the batch size, "
            "or use strategy='no_acc' or 'ds'."
        )
    manager = module._torch_module._execution_manager(True)
    with open(manager._runtime_options.memory_optimizer_config_file_path) as file:
        plans = json.load(file)
    found = manager._runtime_inspector.memory_ob.cluster_id_combination_to_saving_symbolics_map
    savings = (found[p].evaluated_saving for p in plans if p in found)
    saved = sum(s for s in savings if isinstance(s, float))
    return Recompute(level, dict(sorted(operators.items())), round(saved / 1e6, 1))
