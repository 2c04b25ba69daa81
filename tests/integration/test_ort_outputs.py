"""What a model takes and returns under `ort`: as in PyTorch, with gradients through all of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from parity import Net, numbers, same_in_both, weighed
from torch import nn
from torch.nn import functional
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

Batch = tuple[tuple[Any, ...], dict[str, Any]]


def gpt2(attention: str = "eager") -> GPT2LMHeadModel:
    config = GPT2Config(
        n_layer=2, n_head=2, n_embd=8, vocab_size=32, n_positions=16, attn_pdrop=0.0,
        resid_pdrop=0.0, embd_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    config._attn_implementation = attention
    return GPT2LMHeadModel(config).train()


def bert() -> BertForMaskedLM:
    config = BertConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        vocab_size=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    config._attn_implementation = "eager"
    return BertForMaskedLM(config).train()


def batches(*shapes: tuple[int, int], **more: Any) -> list[Batch]:
    made: list[Batch] = []
    for rows, columns in shapes:
        generator = torch.Generator().manual_seed(rows)
        ids = torch.randint(3, 32, (rows, columns), generator=generator)
        mask = torch.ones_like(ids)
        mask[-1, -2:] = 0
        labels = ids.masked_fill(mask == 0, -100)
        made.append(((), {"input_ids": ids, "attention_mask": mask, "labels": labels, **more}))
    return made


THREE = ((2, 7), (3, 5), (1, 6))


# --- outputs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "asked",
    [
        {"output_hidden_states": True},
        {"output_attentions": True},
        {"output_hidden_states": True, "output_attentions": True, "return_dict": False},
    ],
    ids=["hidden states", "attentions", "a tuple of all"],
)
@pytest.mark.parametrize("model", [gpt2, bert])
def test_loss_of_all_outputs_trains_as_in_pytorch(
    model: Callable[[], nn.Module], asked: dict[str, bool]
) -> None:
    assert len(same_in_both(model(), batches(*THREE, **asked)).graphs) == 1


@dataclass
class Answer:
    score: torch.Tensor
    parts: dict[str, Any]
    name: str = "tea"


OUTPUTS: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    "nested": lambda m, x: {"a": [m.one(x), (m.two(x), None, 3)], "b": {"c": m.one(x).sum()}},
    "a dataclass": lambda m, x: Answer(m.one(x), {"two": m.two(x)}),
    "integers and booleans": lambda m, x: (m.one(x), m.two(x).argmax(-1), m.two(x) > 0),
    "views": lambda m, x: (m.one(x).transpose(0, 1), m.two(x).mean(0, True).expand(3, -1, -1)),
}


@pytest.mark.parametrize("forward", OUTPUTS.values(), ids=OUTPUTS)
def test_outputs_come_back_as_in_pytorch(forward: Callable[..., Any]) -> None:
    same_in_both(Net(forward), [((numbers(rows, 5, 4),), {}) for rows in (2, 1, 3)])


def smoothed(outputs: Any) -> torch.Tensor:
    labels = torch.arange(outputs["logits"].shape[:2].numel()) % 32
    return functional.cross_entropy(outputs["logits"].flatten(0, 1), labels, label_smoothing=0.1)


def test_loss_outside_of_the_model_trains_as_in_pytorch() -> None:
    given = [((), {k: v for k, v in b.items() if k != "labels"}) for _, b in batches(*THREE)]
    assert len(same_in_both(gpt2(), given, smoothed).graphs) == 1


# --- inputs --------------------------------------------------------------------------------------


def test_first_batch_of_one_row_without_a_mask_serves_larger_ones() -> None:
    given = batches((1, 6), (3, 7), (2, 5))
    for _, batch in given:
        del batch["attention_mask"]
    assert len(same_in_both(gpt2("sdpa"), given).graphs) == 1


@pytest.mark.parametrize("frozen", [False, True])
def test_embeddings_given_as_input_get_their_gradient(frozen: bool) -> None:
    given = batches(*THREE)
    for _, batch in given:
        rows, columns = batch.pop("input_ids").shape
        batch["inputs_embeds"] = numbers(rows, columns, 8).requires_grad_()
    same_in_both(gpt2().requires_grad_(not frozen), given)


CHANGES: dict[str, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {
    "int32 ids": lambda b: {**b, "input_ids": b["input_ids"].int()},
    "bool mask": lambda b: {**b, "attention_mask": b["attention_mask"].bool()},
    "not contiguous": lambda b: {k: v.t().contiguous().t() for k, v in b.items()},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_inputs_of_another_kind_train_as_in_pytorch(change: Callable[..., Any]) -> None:
    given = [((), change(batch)) for _, batch in batches(*THREE[:2])]
    assert len(same_in_both(gpt2(), given).graphs) == 1


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, more: Any, *, scale: float = 1.0) -> Any:
        first, (second,) = more["pair"]
        return self.layer(x * first + second) * scale * more["factor"]


def test_nested_positional_and_named_inputs_train_as_in_pytorch() -> None:
    def given(rows: int) -> Batch:
        x, y = numbers(rows, 4).requires_grad_(), numbers(rows, 4, seed=5).requires_grad_()
        return (x, {"pair": [y, (x,)], "factor": 3}), {"scale": 0.5}

    same_in_both(Nested(), [given(2), given(1), given(3)])


# --- the process ---------------------------------------------------------------------------------

CONTAINED = """
import inspect
import torch, torch.utils.checkpoint, torch.onnx, torch._dynamo  # which wraps manual_seed
from torch import nn
from torch.onnx._internal.torchscript_exporter.registration import registry

def here():
    tensor = {n: vars(torch.Tensor).get(n) for n in ("data", "item", "__bool__", "register_hook")}
    symbolics = {
        (name, opset): function
        for name in registry.all_functions()
        for opset, function in registry.get_function_group(name)._functions._overrides.items()
    }
    functions = (
        torch.manual_seed, torch.cuda.manual_seed, torch.utils.checkpoint.checkpoint,
        torch.onnx.export, torch.nn.functional.ctc_loss, torch.no_grad.__enter__,
    )
    return {**tensor, "symbolics": symbolics, "functions": functions}

before = here()
from acpt_trainer.ort import patches
from acpt_trainer.ort.forward import attach
assert here() == before, "importing changes torch"
model = nn.Linear(3, 3)
forward = attach(model)
model(torch.ones(2, 3)).sum().backward()
during = here()
pairs = zip(before["functions"], during["functions"], strict=True)
assert all(a is b for a, b in pairs), (before["functions"], during["functions"])
forward.release()
after = here()
gone = before["symbolics"].keys() - after["symbolics"].keys()
ours = [
    name
    for name, function in after.pop("symbolics").items()
    if before["symbolics"].get(name) is not function
    and inspect.unwrap(function).__module__.startswith("acpt_trainer")
]
before.pop("symbolics")
assert after == before, "torch is another after ort"
assert not ours and not gone, (ours, gone)
assert not patches.active()
print("contained")
"""


def test_ort_leaves_torch_as_it_was() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CONTAINED], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "contained" in done.stdout


def test_weighed_loss_tells_outputs_apart() -> None:
    a, b = numbers(2, 3), numbers(2, 3, seed=4)
    assert weighed((a, b)) != weighed((b, a))
