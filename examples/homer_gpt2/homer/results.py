"""What a run leaves behind: metrics.json, loss.png and sample texts."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homer.files import write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROMPTS = ("The king arose and", "Across the sea", "The goddess spoke:")
METRICS = "metrics.json"
PLOT = "loss.png"


def histories(log: Sequence[Mapping[str, Any]]) -> tuple[list[list[float]], list[list[float]]]:
    """Splits a Trainer's log into training and evaluation losses, each as [step, loss]."""
    train = [[entry["step"], entry["loss"]] for entry in log if "loss" in entry]
    evaluation = [[entry["step"], entry["eval_loss"]] for entry in log if "eval_loss" in entry]
    return train, evaluation


def perplexity(loss: float) -> float:
    """The exponential of a loss in nats; infinite where that overflows."""
    return math.exp(loss) if loss < 700 else math.inf


def generate_samples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    seed: int,
    prompts: Sequence[str] = PROMPTS,
    new_tokens: int = 60,
) -> list[dict[str, str]]:
    """Continues each prompt, the same way for the same weights and seed.

    Args:
        model: The plain model.
        tokenizer: Its tokenizer.
        seed: Seed of the sampling.
        prompts: Texts to continue.
        new_tokens: Tokens to add to each.

    Returns:
        `{"prompt", "text"}` for each; the text begins with the prompt.
    """
    import torch
    from transformers import set_seed

    model.eval()
    made = []
    room = getattr(model.config, "max_position_embeddings", None) or 10**9
    for prompt in prompts:
        set_seed(seed)
        # At least half of the positions are for what is added.
        inputs = tokenizer(
            prompt, return_tensors="pt", truncation=True, max_length=max(1, room // 2)
        ).to(model.device)
        with torch.inference_mode():
            output = model.generate(
                **inputs,
                max_new_tokens=min(new_tokens, room - inputs["input_ids"].shape[1]),
                do_sample=True,
                top_k=50,
                temperature=0.9,
                pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
                use_cache=True,
            )
        new = output[0, inputs["input_ids"].shape[1] :]
        text = prompt + tokenizer.decode(new, skip_special_tokens=True)
        made.append({"prompt": prompt, "text": text})
    return made


def plot_losses(
    runs: Mapping[str, tuple[Sequence[Sequence[float]], Sequence[Sequence[float]]]],
    path: Path,
    title: str,
) -> None:
    """Draws the training losses (lines) and validation losses (points) of some runs.

    Args:
        runs: Training and evaluation history by name.
        path: PNG file to write.
        title: Title of the picture.
    """
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    styles = ("-", "--", "-.", ":")
    for index, (name, (train, evaluation)) in enumerate(runs.items()):
        color = f"C{index}"
        # Runs that agree lie on top of each other: thinner lines above wider ones show them all.
        width = 4.5 - 3.5 * index / max(1, len(runs) - 1) if len(runs) > 1 else 2
        style = styles[index % len(styles)]
        if train:
            steps, losses = zip(*train, strict=True)
            axes.plot(steps, losses, style, color=color, lw=width, label=f"{name} training")
        if evaluation:
            steps, losses = zip(*evaluation, strict=True)
            axes.plot(
                steps, losses, "o", color=color, ms=9 - 1.5 * index, mec="white",
                label=f"{name} validation",
            )  # fmt: skip
    axes.set(xlabel="optimizer step", ylabel="loss in nats per token")
    axes.set_title(textwrap.fill(title, 70), fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend()
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    write_atomically({path: image.getvalue()})


def write_metrics(metrics: Mapping[str, Any], path: Path) -> None:
    """Writes metrics as JSON; a number that JSON does not know becomes null."""

    def clean(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, Mapping):
            return {str(k): clean(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [clean(v) for v in value]
        return value

    content = json.dumps(clean(metrics), indent=2, default=str, allow_nan=False)
    write_atomically({path: (content + "\n").encode()})
