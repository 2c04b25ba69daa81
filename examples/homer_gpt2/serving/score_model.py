"""The model that answers: loaded from safetensors, and sampled from by seed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from score_request import RequestError, ScoreRequest
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


@dataclass(frozen=True)
class Answer:
    """The continuation of one prompt.

    Attributes:
        text: The prompt and what follows it.
        new_tokens: How many tokens follow it.
        finish_reason: `stop` if the model ended the text, `length` at the limit.
    """

    text: str
    new_tokens: int
    finish_reason: str

    def to_dict(self) -> dict[str, Any]:
        """As it is sent."""
        return asdict(self)


class _OutOfTime(LogitsProcessor):
    """Ends a generation that takes too long, between two tokens."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if time.monotonic() > self._deadline:
            raise RequestError(408, "timeout", "the time limit is over; ask for fewer new tokens")
        return scores


class _SeededNoise(LogitsProcessor):
    """Turns the choice of the largest score into a sample, with random numbers of the row's own.

    The largest of scores plus Gumbel noise is a sample of their softmax. Each row draws from a
    generator of its own with the same seed, so that a prompt gets the answer in a batch that it
    gets alone, and no other request's random numbers are disturbed.
    """

    def __init__(self, seed: int, rows: int) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for _ in range(rows)]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        width = scores.shape[-1]
        noise = [torch.empty(width).exponential_(generator=g) for g in self._generators]
        # -log(E) of an exponential E is Gumbel noise.
        return scores - torch.stack(noise).clamp_min(1e-30).log().to(scores)


class Model:
    """A causal language model and its tokenizer.

    Args:
        folder: As `save_pretrained` writes it. Only safetensors are read: a pickle can hold code.
    """

    def __init__(self, folder: Path) -> None:
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
        self._model = model.to(self._device).eval()
        # How to sample is what the request says, and nothing that was saved with the model.
        self._model.generation_config = GenerationConfig()
        self._end = self._tokenizer.eos_token_id
        self._room = getattr(model.config, "max_position_embeddings", None) or 10**9

    def generate(self, request: ScoreRequest, deadline: float) -> list[Answer]:
        """Continues each prompt.

        Args:
            request: What to do.
            deadline: When to give up, as `time.monotonic()` counts.

        Raises:
            RequestError: 422 if a prompt does not fit, 408 if the time is over.
        """
        prompts = self._tokens(request)
        longest = max(map(len, prompts))
        padding = [longest - len(tokens) for tokens in prompts]
        fill = self._end or 0
        ids = [[fill] * pad + tokens for pad, tokens in zip(padding, prompts, strict=True)]
        mask = [[0] * pad + [1] * (longest - pad) for pad in padding]
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=torch.tensor(ids, device=self._device),
                attention_mask=torch.tensor(mask, device=self._device),
                generation_config=GenerationConfig(
                    max_new_tokens=request.max_new_tokens,
                    do_sample=False,
                    eos_token_id=self._end,
                    pad_token_id=fill,
                ),
                logits_processor=_processors(request, deadline),
            )
        rows = output[:, longest:].tolist()
        return [self._answer(*row) for row in zip(request.prompts, rows, strict=True)]

    def _tokens(self, request: ScoreRequest) -> list[list[int]]:
        made = [self._tokenizer(prompt)["input_ids"] for prompt in request.prompts]
        for tokens in made:
            if not 1 <= len(tokens) <= self._room - request.max_new_tokens:
                raise RequestError(
                    422,
                    "out_of_range",
                    f"a prompt of {len(tokens)} tokens and {request.max_new_tokens} new ones do "
                    f"not fit into the model's {self._room} positions",
                )
        return made

    def _answer(self, prompt: str, new: Sequence[int]) -> Answer:
        stopped = self._end in new
        kept = new[: new.index(self._end)] if stopped else new
        text = prompt + self._tokenizer.decode(kept, skip_special_tokens=True)
        return Answer(text, len(kept), "stop" if stopped else "length")


def _processors(request: ScoreRequest, deadline: float) -> LogitsProcessorList:
    made = LogitsProcessorList([_OutOfTime(deadline)])
    if request.temperature == 0:
        return made
    made.append(TemperatureLogitsWarper(request.temperature))
    if request.top_k:
        made.append(TopKLogitsWarper(request.top_k))
    if request.top_p < 1:
        made.append(TopPLogitsWarper(request.top_p))
    made.append(_SeededNoise(request.seed, len(request.prompts)))
    return made
