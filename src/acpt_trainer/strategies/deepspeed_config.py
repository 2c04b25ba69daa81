"""DeepSpeed configs: the default one, a user's own, and where it contradicts the arguments."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acpt_trainer.errors import Problem

if TYPE_CHECKING:
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


def section_problems(config: Mapping[str, Any], where: str) -> dict[str, Problem]:
    """Sections that are no objects, such as `"bf16": true`, by their names.

    Args:
        config: The user's config.
        where: Where it was given.
    """
    sections = [name for name, default in DEFAULT_CONFIG.items() if isinstance(default, Mapping)]
    found = {}
    for name in (*sections, "optimizer", "scheduler"):
        value = config.get(name, {})
        shown = name
        if isinstance(value, Mapping):
            value, shown = value.get("params", {}), f"{name}.params"
        if not isinstance(value, Mapping):
            leaf, example = shown.rpartition(".")[2], DEFAULT_CONFIG.get(name, {})
            found[name] = Problem(
                f"{shown} is {value!r}, and DeepSpeed wants an object",
                f"{where}, {shown}",
                f"write it as {json.dumps({leaf: example})}",
            )
    return found


def precision_problems(config: Mapping[str, Any], precision: str, where: str) -> list[Problem]:
    """A precision that the config says otherwise, in a script without training arguments.

    Args:
        config: The user's config, with sound sections.
        precision: The precision that was settled on.
        where: Where the config was given.
    """
    said = {name: config.get(name, {}).get("enabled", "auto") for name in ("bf16", "fp16")}
    return [
        Problem(
            f"the config says {name}.enabled={json.dumps(value)} and the precision is {precision}",
            f"{where}, {name}.enabled",
            f'write "auto", or ask for precision={name!r}',
        )
        for name, value in said.items()
        if value != "auto" and bool(value) != (precision == name)
    ]


def mismatches(config: dict[str, Any], args: TrainingArguments, where: str) -> list[Problem]:
    """Every value that the config and the arguments say differently, by transformers' own table.

    Args:
        config: The merged config.
        args: The training arguments.
        where: Where the config was given.
    """
    import transformers.integrations.deepspeed as hf

    before = hf._hf_deepspeed_config_weak_ref
    try:
        probe = hf.HfTrainerDeepSpeedConfig(config)
        probe.trainer_config_process(args)
        if args.max_steps > 0:
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
