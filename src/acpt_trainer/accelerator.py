"""Strategies for scripts with their own loop: an `accelerate.Accelerator` that is bound to one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from acpt_trainer.errors import ConfigurationError, Problem, raise_if_any
from acpt_trainer.integration import ATTRIBUTE, Binding, check_versions
from acpt_trainer.launch import (
    contained_environment,
    foreign_engine_problems,
    launched_processes,
)
from acpt_trainer.precision import choose_precision
from acpt_trainer.registry import resolve_strategy
from acpt_trainer.report import StrategyReport, write_report
from acpt_trainer.strategies.base import AcceleratorStrategy, TrainingContext

if TYPE_CHECKING:
    from accelerate import Accelerator


_DECIDED = (
    "mixed_precision", "deepspeed_plugin", "deepspeed_plugins", "fsdp_plugin", "dynamo_plugin",
    "dynamo_backend", "parallelism_config", "torch_tp_plugin", "megatron_lm_plugin",
)  # fmt: skip
"""Arguments of `Accelerator` that a strategy decides."""


def create_accelerator(
    strategy: str | AcceleratorStrategy, *, precision: str | None = "auto", **kwargs: Any
) -> Accelerator:
    """An `accelerate.Accelerator` whose training model a strategy accelerates.

    For scripts with their own loop. `prepare`, `backward`, `unwrap_model` and the rest are used as
    ever. After the first optimizer step the strategy must have engaged, or `backward` raises.

    Args:
        strategy: A strategy or its name.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        **kwargs: Given to `Accelerator`.

    Returns:
        The accelerator, bound to the strategy.

    Raises:
        ConfigurationError: If the strategy cannot run; with all problems at once.

    Example:
        >>> accelerator = create_accelerator("ort", precision="fp32")
        >>> model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    """
    import torch
    from accelerate import Accelerator, PartialState
    from torch import nn

    check_versions()
    chosen = resolve_strategy(strategy)
    device = "cuda" if torch.cuda.is_available() and not kwargs.get("cpu") else "cpu"
    settled = choose_precision(precision or "fp32", chosen, device) or "fp32"
    context = TrainingContext(settled, device, launched_processes())
    problems = chosen.problems(context) + foreign_engine_problems(chosen)
    problems += _earlier_accelerator_problems(chosen)
    for name in _DECIDED:
        if kwargs.get(name) is not None:
            problems.append(
                Problem(
                    f"{name} is given beside a strategy",
                    f"create_accelerator({name}=...)",
                    "leave it out: precision= and strategy= decide it",
                )
            )
    raise_if_any(problems, f"Cannot train with strategy {chosen.label!r}")
    kwargs |= {"mixed_precision": "no" if settled == "fp32" else settled}
    with contained_environment():
        if kwargs.pop("cpu", False) or (device == "cpu" and launched_processes() > 1):
            # See `join_processes`. Not Accelerator(cpu=True), which leaves DeepSpeed out.
            PartialState(cpu=True)
        accelerator = Accelerator(**kwargs, **chosen.accelerator_kwargs(context))

    owned: list[nn.Module] = []

    def owns(candidate: Any) -> bool:
        if not isinstance(candidate, nn.Module):
            return False
        if owned and owned[0] is not candidate:
            raise ConfigurationError(
                [
                    Problem(
                        "a second model is prepared, and a strategy accelerates one",
                        type(candidate).__name__,
                        "create one accelerator for each model",
                    )
                ]
            )
        raise_if_any(
            chosen.problems(
                TrainingContext(settled, device, accelerator.num_processes, None, candidate)
            ),
            f"Cannot train with strategy {chosen.label!r}",
        )
        owned[:] = [candidate]
        return True

    binding = Binding(accelerator, chosen, settled, owns)
    stepped = False

    def backward(original: Callable[..., Any], loss: Any, **options: Any) -> None:
        nonlocal stepped
        if stepped:
            binding.verify()
        original(loss, **options)
        stepped = stepped or accelerator.sync_gradients

    def end_training(original: Callable[..., Any]) -> None:
        if stepped:
            binding.verify()
        binding.release()
        original()

    def free_memory(original: Callable[..., Any], *objects: Any) -> Any:
        nonlocal stepped
        binding.release()
        owned.clear()
        stepped = False
        return original(*objects)

    def save_state(original: Callable[..., Any], *args: Any, **options: Any) -> Any:
        folder = original(*args, **options)
        if accelerator.is_main_process and folder is not None:
            write_report(binding.report(), folder)
        return folder

    binding._extend("backward", backward)
    binding._extend("end_training", end_training)
    binding._extend("free_memory", free_memory)
    binding._extend("save_state", save_state)
    return accelerator


def _earlier_accelerator_problems(strategy: AcceleratorStrategy) -> list[Problem]:
    """Accelerate keeps one state a process, made with an engine or without, for good."""
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    state = AcceleratorState._shared_state
    if not state or "distributed_type" not in state:
        return []
    engines = {DistributedType.DEEPSPEED: "deepspeed", DistributedType.FSDP: "fsdp"}
    made_with = engines.get(state["distributed_type"], "torch")
    if made_with == strategy.checkpoint_format:
        return []
    told = {"deepspeed": "with DeepSpeed", "fsdp": "with FSDP"}.get(made_with, "without an engine")
    return [
        Problem(
            f"this process already has an accelerator made {told}",
            "create_accelerator(...)",
            "create it in a process of its own, or after AcceleratorState._reset_state(True)",
        )
    ]


def strategy_report(accelerator: Accelerator) -> StrategyReport:
    """What really ran on an accelerator that `create_accelerator` made.

    Raises:
        ValueError: If no strategy is bound to it.
    """
    binding: Binding | None = getattr(accelerator, ATTRIBUTE, None)
    if binding is None:
        raise ValueError("no strategy is bound to this accelerator; see create_accelerator")
    return binding.report()
