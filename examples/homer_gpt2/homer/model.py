"""The model and the tokenizer: loaded from safetensors, or made from a config."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from acpt_trainer import ConfigurationError, Problem, raise_if_any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_tokenizer(args: argparse.Namespace) -> PreTrainedTokenizerBase:
    """Loads the tokenizer.

    Raises:
        ConfigurationError: If it cannot be loaded; says what a machine without a network can do.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(args.tokenizer_path)
    except (OSError, ValueError) as error:
        raise _not_loaded("tokenizer", "--tokenizer_path", args.tokenizer_path, error) from error


def load_model(args: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Loads the model, or makes one with random weights.

    Args:
        args: The command line.
        tokenizer: Its size is the vocabulary of a model from scratch.

    Returns:
        The model, in fp32: mixed precision is the strategy's business.

    Raises:
        ConfigurationError: If it cannot be loaded or does not fit the block size or tokenizer.
    """
    import torch
    from transformers import AutoModelForCausalLM, set_seed

    options: dict[str, Any] = {"dtype": torch.float32}
    if args.attn_implementation:
        options["attn_implementation"] = args.attn_implementation
    if args.from_scratch:
        config = _config_from_file(args, tokenizer)
        raise_if_any(_fit_problems(config, args, tokenizer), "Cannot train this model")
        set_seed(args.seed)
        try:
            return with_shifted_loss(AutoModelForCausalLM.from_config(config, **options))
        except Exception as error:  # each architecture validates its config in its own way
            raise _refused(args, error) from error
    try:
        model = AutoModelForCausalLM.from_pretrained(
            args.model_path, use_safetensors=True, **options
        )
    except (OSError, ValueError) as error:
        raise _not_loaded("model", "--model_path", args.model_path, error) from error
    raise_if_any(_fit_problems(model.config, args, tokenizer), "Cannot train this model")
    return with_shifted_loss(model)


def with_shifted_loss(model: PreTrainedModel) -> PreTrainedModel:
    """Names the loss of a GPT-2 so that `Trainer` counts the predicted tokens right.

    transformers 5.23 derives the loss from the class name, finds none in `GPT2LMHeadModel`, and
    `Trainer` then divides by one token too many in each block: losses come out too small.
    """
    if getattr(model, "loss_type", None) is None:
        model.loss_type = "ForCausalLM"
    return model


def _refused(args: argparse.Namespace, error: Exception) -> ConfigurationError:
    reason = " ".join(str(error).split())
    reason = reason if len(reason) < 300 else f"{reason[:300]} ..."
    where = f"--config_path {args.config_path}"
    problem = Problem(f"the config is refused: {reason}", where, "mend the file")
    return ConfigurationError([problem], "Cannot make a model")


def _config_from_file(args: argparse.Namespace, tokenizer: PreTrainedTokenizerBase) -> Any:
    from transformers import AutoConfig

    where = f"--config_path {args.config_path}"
    try:
        settings = json.loads(args.config_path.read_text(encoding="utf-8"))
        model_type = settings.pop("model_type")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        problem = Problem(
            f"the file is no model config: {error!r}",
            where,
            'write a JSON object with "model_type" and the sizes, as configs/gpt2_small.json',
        )
        raise ConfigurationError([problem], "Cannot make a model") from error
    settings |= {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    try:
        return AutoConfig.for_model(model_type, **settings)
    except Exception as error:  # each model type validates its config in its own way
        raise _refused(args, error) from error


def _fit_problems(
    config: Any, args: argparse.Namespace, tokenizer: PreTrainedTokenizerBase
) -> list[Problem]:
    found = []
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and args.block_size > positions:
        what = f"the model has {positions} positions and a block has {args.block_size} tokens"
        found.append(Problem(what, "--block_size", f"give at most {positions}"))
    if len(tokenizer) > config.vocab_size:
        what = (
            f"the tokenizer has {len(tokenizer)} entries and the model embeds {config.vocab_size}"
        )
        found.append(
            Problem(what, f"--tokenizer_path {args.tokenizer_path}", "use the model's own")
        )
    return found


def _not_loaded(what: str, option: str, name: str, error: Exception) -> ConfigurationError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    problem = Problem(
        f"the {what} cannot be loaded: {reason}",
        f"{option} {name}",
        "name a folder that holds one (safetensors), connect to the hub, or train "
        "--from_scratch with --config_path and the tokenizer of prepare_data.py",
    )
    return ConfigurationError([problem], f"Cannot load the {what}")
