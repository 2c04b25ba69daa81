"""`ds`: DeepSpeed ZeRO-1, where each process keeps a share of the optimizer's state."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from acpt_trainer.errors import Problem
from acpt_trainer.requirements import Requirement, import_deepspeed
from acpt_trainer.strategies.base import (
    AcceleratorStrategy,
    Layer,
    Status,
    StrategyStatus,
    TrainingContext,
)
from acpt_trainer.strategies.deepspeed_build import abandoned_builds
from acpt_trainer.strategies.deepspeed_config import (
    STAGES,
    merged_config,
    mismatches,
    precision_problems,
    read_config,
    section_problems,
)

if TYPE_CHECKING:
    from torch import nn
    from transformers import TrainingArguments


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
        self._precision: str | None = None
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
        if self.requires[0].installed():
            found += abandoned_builds()
        self._precision = context.precision
        user, where = self._user_config(context.args)
        read = read_config(user)
        if isinstance(read, Problem):
            return [*found, read]
        malformed = section_problems(read, where)
        found += malformed.values()
        read = {name: value for name, value in read.items() if name not in malformed}
        found += self._stage_problems(read, where)
        if context.args is None:
            return found + precision_problems(read, context.precision, where)
        if self.config is not None and getattr(context.args, "deepspeed", None):
            found.append(
                Problem(
                    "two DeepSpeed configs are given",
                    f"{where} and TrainingArguments(deepspeed=...)",
                    "give one of them",
                )
            )
        if self.requires[0].installed():
            found += mismatches(merged_config(read), context.args, where)
        return found

    def _stage_problems(self, config: Mapping[str, Any], where: str) -> list[Problem]:
        stage = config.get("zero_optimization", {}).get("stage")
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

        import_deepspeed()
        _start_single_process()
        config = self.resolved_config(args)
        args.deepspeed = config
        args.hf_deepspeed_config = HfTrainerDeepSpeedConfig(config)
        args.hf_deepspeed_config.trainer_config_process(args)
        args.deepspeed_plugin = DeepSpeedPlugin(hf_ds_config=args.hf_deepspeed_config)

    def accelerator_kwargs(self, context: TrainingContext) -> dict[str, Any]:
        """The plugin for a plain Accelerate script, which fills in `auto` from the data loader."""
        from accelerate.utils import DeepSpeedPlugin

        import_deepspeed()
        _start_single_process()
        config = self.resolved_config(None)
        for name in ("bf16", "fp16"):
            config[name]["enabled"] = context.precision == name
        if config["gradient_clipping"] == "auto":
            # Accelerate would fill in 1.0, which the script did not ask for.
            config["gradient_clipping"] = 0.0
        return {"deepspeed_plugin": DeepSpeedPlugin(hf_ds_config=config)}

    def wrap_model(self, model: nn.Module) -> nn.Module:
        """Forgets the evidence of an earlier training; the engine wraps the model later."""
        self._last = None
        return model

    def clips_to(self) -> float | None:
        """DeepSpeed clips inside its step; 0 means not at all."""
        clipping = getattr(self._engine, "gradient_clipping", None)
        return None if clipping is None else float(clipping())

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
        if evidence["precision"] != (self._precision or evidence["precision"]):
            return StrategyStatus.fell_back(
                f"{self._precision} was asked for and the engine trains in {evidence['precision']}",
                evidence,
            )
        if not evidence["steps"] or not evidence["partition_elements"]:
            return StrategyStatus(
                Status.PENDING, evidence, "the ZeRO optimizer has not made a step yet"
            )
        fair = 1.1 / evidence["partitions"]  # partitions are padded to equal sizes
        if evidence["optimizer_state_share"] > fair:
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
    half = "bf16" if engine.bfloat16_enabled() else "fp16" if engine.fp16_enabled() else "fp32"
    groups = getattr(zero, "single_partition_of_fp32_groups", [])
    flat = [whole.numel() for whole in getattr(zero, "bit16_groups_flat", [])]
    mine = [partition.numel() for partition in groups]
    held = [tensor_bytes(zero.optimizer.state.get(partition, {})) for partition in groups]
    # The state is as large as the partition, and the group's flat buffer is all partitions.
    whole = sum(h * f // max(1, m) for h, f, m in zip(held, flat, mine, strict=True))
    return {
        "engine": type(engine).__name__,
        "zero_stage": engine.zero_optimization_stage(),
        "zero_optimizer": type(zero).__name__,
        "precision": half,
        "steps": engine.global_steps,
        "skipped_steps": engine.skipped_steps,
        "partitions": max(map(int, getattr(zero, "partition_count", [])), default=1),
        "partition_elements": sum(mine),
        "optimizer_state_bytes": sum(held),
        "optimizer_state_bytes_whole": whole,
        # By elements: an optimizer may keep no state, and a skipped step makes none.
        "optimizer_state_share": round(sum(mine) / sum(flat), 4) if sum(flat) else 1.0,
    }


def tensor_bytes(state: Mapping[str, Any]) -> int:
    """Bytes of the tensors in one parameter's optimizer state."""
    return sum(v.numel() * v.element_size() for v in state.values() if hasattr(v, "element_size"))


def _start_single_process() -> None:
    """Makes a process group of one where no launcher started this process.

    DeepSpeed would look for MPI, and evaluation before training needs the group already.
    """
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
    import_deepspeed().init_distributed(auto_mpi_discovery=False, verbose=False)
