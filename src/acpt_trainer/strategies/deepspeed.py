"""`ds`: DeepSpeed ZeRO-1, where each process keeps a share of the optimizer's state."""

from __future__ import annotations

import copy
import json
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from acpt_trainer.errors import Problem
from acpt_trainer.requirements import Requirement
from acpt_trainer.strategies.base import (
    AcceleratorStrategy,
    Layer,
    Status,
    StrategyStatus,
    TrainingContext,
)

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainingArguments

# "auto" takes the value from TrainingArguments, which stay the only place where it is said.
DEFAULT_CONFIG: dict[str, Any] = {
    "zero_optimization": {"stage": 1},
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "train_batch_size": "auto",
    "gradient_clipping": "auto",
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": "auto"},
    # The optimizer is the Trainer's own, so that `ds` and `no_acc` compute the same step.
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
}
STAGES = (1, 2)


def merged_config(user: Mapping[str, Any]) -> dict[str, Any]:
    """A user's config over the default one: what it does not say is `auto`.

    Args:
        user: The user's DeepSpeed config.

    Returns:
        A new dictionary.
    """

    def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
        out = copy.deepcopy(dict(base))
        for key, value in over.items():
            both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
            out[key] = merge(out[key], value) if both else copy.deepcopy(value)
        return out

    return merge(DEFAULT_CONFIG, user)


def read_config(config: str | os.PathLike[str] | Mapping[str, Any]) -> dict[str, Any] | Problem:
    """Reads a DeepSpeed config from a file or a mapping.

    Args:
        config: Path of a JSON file, or the config itself.

    Returns:
        The config, or what is wrong with it.
    """
    if isinstance(config, Mapping):
        return dict(config)
    path = Path(config)
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        return Problem(
            f"the DeepSpeed config cannot be read: {error.strerror}",
            str(path),
            "give the path of a JSON file, or leave it out to have one generated",
        )
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        return Problem(f"the DeepSpeed config is not JSON: {error}", str(path), "mend the file")
    if not isinstance(loaded, dict):
        return Problem(
            f"the DeepSpeed config holds a {type(loaded).__name__}, not an object",
            str(path),
            "write the settings as one JSON object",
        )
    return loaded


class DeepSpeedStrategy(AcceleratorStrategy):
    """DeepSpeed ZeRO.

    Args:
        config: Path of a DeepSpeed config or the config itself. What it leaves out is filled in
            from `TrainingArguments`. `TrainingArguments(deepspeed=...)` is taken when this is None.
        zero_stage: ZeRO stage, 1 or 2; the config's own if None, else 1.

    Source:
        ZeRO: Rajbhandari et al., 2019, https://arxiv.org/abs/1910.02054.
    """

    name: ClassVar[str] = "ds"
    layer: ClassVar[Layer] = Layer.ENGINE
    description: ClassVar[str] = "DeepSpeed ZeRO-1: each process keeps a share of optimizer state"
    requires: ClassVar[tuple[Requirement, ...]] = (
        Requirement("deepspeed", ("deepspeed",), "deepspeed"),
    )
    conflicts: ClassVar[dict[str, str]] = {
        "fsdp": "both own the optimizer and the distribution",
        "ddp": "both own the distribution",
    }
    checkpoint_format = "deepspeed"

    def __init__(
        self,
        config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        zero_stage: int | None = None,
    ) -> None:
        self.config = config
        self.zero_stage = zero_stage
        self._engine: Any = None
        self._last: StrategyStatus | None = None

    def options(self) -> dict[str, Any]:
        """The options that it was built with."""
        given = self.config
        shown = dict(given) if isinstance(given, Mapping) else given and os.fspath(given)
        return {"config": shown, "zero_stage": self.zero_stage}

    def precisions(self, device: str) -> tuple[str, ...]:
        """On a CPU, DeepSpeed has no float16 kernels."""
        return ("bf16", "fp16", "fp32") if device == "cuda" else ("bf16", "fp32")

    # --- before training -------------------------------------------------------------------------

    def _user_config(self, args: TrainingArguments | None) -> tuple[Any, str]:
        """The config that the user gave, and where."""
        if self.config is not None:
            where = "the config dictionary" if isinstance(self.config, Mapping) else self.config
            return self.config, f"DeepSpeedStrategy(config=...): {where}"
        given = getattr(args, "deepspeed", None)
        if given:
            shown = "a dictionary" if isinstance(given, Mapping) else given
            return given, f"TrainingArguments(deepspeed=...): {shown}"
        return {}, "the generated config"

    def resolved_config(self, args: TrainingArguments | None) -> dict[str, Any]:
        """The config to train with; call after `problems` found none."""
        user = read_config(self._user_config(args)[0])
        if isinstance(user, Problem):
            raise ValueError(str(user))
        config = merged_config(user)
        if self.zero_stage is not None:
            config["zero_optimization"]["stage"] = self.zero_stage
        return config

    def problems(self, context: TrainingContext) -> list[Problem]:
        """The config's own faults and every mismatch with the training arguments."""
        found = super().problems(context)
        user, where = self._user_config(context.args)
        read = read_config(user)
        if isinstance(read, Problem):
            return [*found, read]
        found += self._stage_problems(read, where)
        if context.args is None:
            return found
        if self.config is not None and getattr(context.args, "deepspeed", None):
            found.append(
                Problem(
                    "two DeepSpeed configs are given",
                    f"{where} and TrainingArguments(deepspeed=...)",
                    "give one of them",
                )
            )
        if getattr(context.args, "fsdp", None):
            found.append(
                Problem(
                    "DeepSpeed and FSDP cannot be combined: both own the distribution",
                    f"TrainingArguments(fsdp={context.args.fsdp!r})",
                    "leave fsdp out, or use strategy='no_acc'",
                )
            )
        if self.requires[0].installed() and not found:
            found += _mismatches(merged_config(read), context, where)
        return found

    def _stage_problems(self, config: Mapping[str, Any], where: str) -> list[Problem]:
        zero = config.get("zero_optimization", {})
        stage = zero.get("stage") if isinstance(zero, Mapping) else zero
        if self.zero_stage is not None and stage not in (None, self.zero_stage):
            return [
                Problem(
                    f"zero_stage={self.zero_stage} and the config's stage {stage} differ",
                    where,
                    "say it in one place",
                )
            ]
        stage = self.zero_stage if self.zero_stage is not None else stage
        if stage is None or (stage in STAGES and not isinstance(stage, bool)):
            return []
        return [
            Problem(
                f"ZeRO stage {stage!r} is not supported: stages 1 and 2 keep the parameters whole, "
                "so that checkpoints hold the plain model",
                f"{where}, zero_optimization.stage",
                "set the stage to 1 or 2",
            )
        ]

    def configure(self, args: TrainingArguments) -> None:
        """Puts the config where `TrainingArguments(deepspeed=...)` would have put it."""
        from accelerate.utils import DeepSpeedPlugin
        from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

        _quiet()
        config = self.resolved_config(args)
        args.deepspeed = config
        args.hf_deepspeed_config = HfTrainerDeepSpeedConfig(config)
        args.hf_deepspeed_config.trainer_config_process(args)
        args.deepspeed_plugin = DeepSpeedPlugin(hf_ds_config=args.hf_deepspeed_config)

    def accelerator_kwargs(self, context: TrainingContext) -> dict[str, Any]:
        """The plugin for a plain Accelerate script, which fills in `auto` from the data loader."""
        from accelerate.utils import DeepSpeedPlugin

        _quiet()
        config = self.resolved_config(None)
        for name in ("bf16", "fp16"):
            config[name]["enabled"] = context.precision == name
        if config["gradient_clipping"] == "auto":
            # Accelerate would fill in 1.0, which the script did not ask for.
            config["gradient_clipping"] = 0.0
        return {"deepspeed_plugin": DeepSpeedPlugin(hf_ds_config=config)}

    def wrap_model(self, model: nn.Module) -> nn.Module:
        """Makes sure that a single process can start: DeepSpeed looks for MPI otherwise."""
        _single_process_rendezvous()
        self._last = None
        return model

    def clips_to(self) -> float | None:
        """DeepSpeed clips inside its step; 0 means not at all."""
        return None if self._engine is None else float(self._engine.gradient_clipping())

    # --- evidence --------------------------------------------------------------------------------

    def prepared(self, accelerator: Any, model: nn.Module) -> None:
        """Keeps the engine to read the evidence from."""
        self._engine = model

    def status(self) -> StrategyStatus:
        """Engaged when a ZeRO optimizer stepped and this process holds its share of the state."""
        if self._last is not None:
            return self._last
        engine = self._engine
        if engine is None:
            return StrategyStatus.pending("the model is not prepared for training yet")
        if not hasattr(engine, "zero_optimization_stage"):
            return StrategyStatus.fell_back(
                f"the prepared model is a {type(engine).__name__}, not a DeepSpeed engine"
            )
        evidence = _evidence(engine)
        if evidence["zero_stage"] not in STAGES:
            return StrategyStatus.fell_back(
                f"the engine runs ZeRO stage {evidence['zero_stage']}", evidence
            )
        if not evidence["steps"] or not evidence["optimizer_state_bytes"]:
            return StrategyStatus(
                Status.PENDING, evidence, "the ZeRO optimizer has not made a step yet"
            )
        fair = 1.1 / evidence["partitions"]  # partitions are padded to equal sizes
        if evidence["partitions"] > 1 and evidence["optimizer_state_share"] > fair:
            return StrategyStatus.fell_back(
                f"this process holds {evidence['optimizer_state_share']:.0%} of the optimizer's "
                f"state instead of 1/{evidence['partitions']}",
                evidence,
            )
        return StrategyStatus.engaged(evidence)

    def close(self) -> None:
        """Lets go of the engine; the Trainer owns it."""
        if self._engine is not None:
            self._last = self.status()
            self._engine = None


def _evidence(engine: Any) -> dict[str, Any]:
    zero = engine.optimizer
    evidence: dict[str, Any] = {
        "engine": type(engine).__name__,
        "zero_stage": engine.zero_optimization_stage(),
        "zero_optimizer": type(zero).__name__,
        "steps": engine.global_steps,
        "partitions": 1,
        "optimizer_state_bytes": 0,
        "optimizer_state_bytes_whole": 0,
        "optimizer_state_share": 1.0,
    }
    groups = getattr(zero, "single_partition_of_fp32_groups", None)
    if groups is None:
        return evidence
    here = whole = 0
    for index, partition in enumerate(groups):
        held = tensor_bytes(zero.optimizer.state.get(partition, {}))
        here += held
        # The state is as large as the partition; the group's flat buffer is all partitions.
        whole += held * zero.bit16_groups_flat[index].numel() // max(1, partition.numel())
        evidence["partitions"] = int(zero.partition_count[index])
    evidence["optimizer_state_bytes"] = here
    evidence["optimizer_state_bytes_whole"] = whole
    evidence["optimizer_state_share"] = round(here / whole, 4) if whole else 1.0
    return evidence


def tensor_bytes(state: Mapping[str, Any]) -> int:
    """Bytes of the tensors in one parameter's optimizer state."""
    return sum(v.numel() * v.element_size() for v in state.values() if hasattr(v, "element_size"))


def _mismatches(config: dict[str, Any], context: TrainingContext, where: str) -> list[Problem]:
    """Every value that the config and the arguments say differently, by transformers' own table."""
    import transformers.integrations.deepspeed as hf

    args = context.args
    before = hf._hf_deepspeed_config_weak_ref
    try:
        probe = hf.HfTrainerDeepSpeedConfig(config)
        probe.trainer_config_process(args)
        if args is not None and args.max_steps > 0:
            # The last table needs the number of steps, which is only known now if it was given.
            probe.fill_match("scheduler.params.total_num_steps", args.max_steps, "max_steps")
            probe.fill_match(
                "scheduler.params.warmup_num_steps",
                max(1, args.get_warmup_steps(args.max_steps)),
                "warmup_steps",
            )
    finally:
        hf._hf_deepspeed_config_weak_ref = before
    return [
        Problem(
            f"DeepSpeed config and TrainingArguments differ: {line.removeprefix('- ')}",
            where,
            'write "auto" in the config, or the same value in both',
        )
        for line in probe.mismatches
    ]


def _quiet() -> None:
    """DeepSpeed logs every setting at INFO on every rank; warnings and errors stay."""
    import logging

    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed  # noqa: F401  creates the logger that is quietened

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)


def _single_process_rendezvous() -> None:
    """Gives a process that no launcher started the variables that `init_distributed` wants."""
    import torch.distributed as dist

    if (dist.is_available() and dist.is_initialized()) or "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for name, value in (
        ("RANK", "0"),
        ("LOCAL_RANK", "0"),
        ("WORLD_SIZE", "1"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", str(port)),
    ):
        os.environ.setdefault(name, value)
