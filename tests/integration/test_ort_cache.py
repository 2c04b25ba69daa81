"""The export cache with the real engine: a hit trains exactly as a miss, and no hit is wrong."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from strategy_runs import launch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from acpt_trainer.ort.cache import ExportCache
from acpt_trainer.ort.forward import OrtForward, attach

# Not importorskip: a bare import replaces functions of torch for every test after it.
if importlib.util.find_spec("onnxruntime") is None:
    pytest.skip("needs the extra 'ort'", allow_module_level=True)


@pytest.fixture
def cache(tmp_path: Path) -> ExportCache:
    return ExportCache(tmp_path)


def gpt2(**config: Any) -> GPT2LMHeadModel:
    small = {
        "n_layer": 2, "n_head": 2, "n_embd": 32, "vocab_size": 96, "n_positions": 32,
        "bos_token_id": 0, "eos_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(**{**small, **config})).train()


def train(model: nn.Module, cache: ExportCache | None, steps: int = 1) -> tuple[str, list[float]]:
    """How the cache was used, and the losses of a few steps from the same state."""
    forward = attach(model, cache=cache)
    torch.manual_seed(1)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(steps):
        ids = torch.randint(3, 96, (2, 12))
        optimizer.zero_grad()
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return used(forward), losses


def used(forward: OrtForward) -> str:
    (graph,) = forward.graphs.values()
    return graph.cache_use


def test_a_hit_trains_exactly_as_a_miss(cache: ExportCache) -> None:
    off = train(gpt2(), None, steps=3)
    miss = train(gpt2(), cache, steps=3)
    hit = train(gpt2(), cache, steps=3)

    assert [use for use, _ in (off, miss, hit)] == ["off", "miss", "hit"]
    assert off[1] == miss[1] == hit[1]
    (entry,) = cache.folder.glob("*.onnx")
    weights = sum(p.numel() * 4 for p in gpt2(n_embd=256).parameters())
    train(gpt2(n_embd=256), cache)
    sizes = [path.stat().st_size for path in cache.folder.glob("*.onnx")]
    assert max(sizes) < 2 * entry.stat().st_size < weights / 10, "no weights in it"


def frozen(model: GPT2LMHeadModel) -> GPT2LMHeadModel:
    model.transformer.h[0].requires_grad_(False)
    return model


CHANGES: dict[str, Callable[[], nn.Module]] = {
    "activation": lambda: gpt2(activation_function="relu"),
    "dropout": lambda: gpt2(resid_pdrop=0.2),
    "layers": lambda: gpt2(n_layer=1),
    "attention": lambda: gpt2(attn_implementation="eager"),
    "scale": lambda: gpt2(scale_attn_by_inverse_layer_idx=True, attn_implementation="eager"),
    "frozen": lambda: frozen(gpt2()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_another_model_is_no_hit(cache: ExportCache, change: Callable[[], nn.Module]) -> None:
    train(gpt2(), cache)
    use, losses = train(change(), cache)
    assert use == "miss"
    assert losses == train(change(), None)[1]


def test_classes_of_the_same_name_do_not_share_a_graph(cache: ExportCache) -> None:
    def scaled(factor: float) -> nn.Module:
        class Scaled(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Linear(3, 3)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.layer(x).sum() * factor

        torch.manual_seed(0)
        return Scaled().train()

    x = torch.ones(2, 3)
    losses = []
    for factor, expected in ((1.0, "miss"), (2.0, "miss"), (1.0, "hit")):
        model = scaled(factor)
        forward = attach(model, cache=cache)
        losses.append(model(x).item())
        assert used(forward) == expected
        assert losses[-1] == pytest.approx(scaled(factor)(x).item(), rel=1e-5)
    assert losses[1] == pytest.approx(2 * losses[0], rel=1e-5)


def test_a_spoilt_entry_is_made_anew(cache: ExportCache, caplog: pytest.LogCaptureFixture) -> None:
    _, losses = train(gpt2(), cache)
    (entry,) = cache.folder.glob("*.onnx")
    whole = entry.read_bytes()
    entry.write_bytes(whole[: len(whole) // 2])

    assert train(gpt2(), cache) == ("miss", losses)
    assert "is made anew: ValueError: its checksum differs" in caplog.text
    assert entry.read_bytes() == whole
    assert train(gpt2(), cache) == ("hit", losses)


def stranger(graph: Any) -> None:
    graph.input[-1].name = "stranger"


def longer(graph: Any) -> None:
    graph.input[-1].type.tensor_type.shape.dim[0].dim_value += 1


def more(graph: Any) -> None:
    graph.output.add().name = "more"


@pytest.mark.parametrize(
    ("spoil", "why"),
    [(stranger, "it takes stranger"), (longer, "has the shape"), (more, "it has 4 outputs")],
)
def test_an_entry_that_does_not_fit_is_made_anew(
    cache: ExportCache, caplog: pytest.LogCaptureFixture, spoil: Any, why: str
) -> None:
    _, losses = train(gpt2(), cache)
    (entry,) = cache.folder.glob("*.onnx")
    model = cache.load(entry.stem)
    spoil(model.graph)
    cache.store(entry.stem, model, {})

    assert train(gpt2(), cache) == ("miss", losses)
    assert f"{entry.name} is made anew: " in caplog.text
    assert why in caplog.text


def test_a_folder_that_cannot_be_used_costs_the_cache_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    use, losses = train(gpt2(), ExportCache(tmp_path / "file"))
    assert use.startswith("off: NotADirectoryError")
    assert losses == train(gpt2(), None)[1]
    assert "exported graphs are not kept between runs: " in caplog.text


def test_a_full_disk_costs_the_cache_alone(
    cache: ExportCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full_disk(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ExportCache, "_write", full_disk)
    use, losses = train(gpt2(), cache)
    assert use.startswith("off: OSError: [Errno 28]")
    assert losses == train(gpt2(), None)[1]
    assert "exported graphs are not kept between runs: [Errno 28]" in caplog.text


def test_a_model_that_looks_at_data_is_not_kept(cache: ExportCache) -> None:
    class Looking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.sum() > 1e6:  # a check, which is let through; a branch is refused
                raise ValueError("too large")
            return self.layer(x).sum()

    model = Looking()
    forward = attach(model, cache=cache)
    x = torch.ones(2, 3)
    assert model(x).item() == pytest.approx(forward.original(x).item(), rel=1e-5)
    assert used(forward).startswith("off: its trace without data fails")
    assert list(cache.folder.iterdir()) == []


def test_a_model_that_does_otherwise_with_data_is_exported_as_it_is(cache: ExportCache) -> None:
    from torch._subclasses.fake_tensor import FakeTensor

    class TwoFaced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            y = self.layer(x)
            return {"a": y} if isinstance(x, FakeTensor) else {"b": y.sum(), "a": y}

    model = TwoFaced()
    forward = attach(model, cache=cache)
    for rows in (2, 4):
        found = model(torch.ones(rows, 3))
        assert {name: value.shape for name, value in found.items()} == {"b": (), "a": (rows, 3)}
    assert used(forward) == "off: the model does otherwise when it is traced without data"
    assert list(cache.folder.glob("*.onnx")) == []


def test_an_export_that_fails_leaves_nothing_behind(cache: ExportCache) -> None:
    class Singular(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.svdvals(self.layer(x)).sum()

    model = Singular()
    attach(model, cache=cache)
    for _ in range(2):  # the second time it neither hangs nor finds anything
        with pytest.raises(Exception, match="svdvals"):
            model(torch.randn(3, 3))
    assert list(cache.folder.glob("*.onnx")) == []


WORKER = """
import os, sys, time
for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
    del os.environ[name]  # two runs, and not two processes of one
from pathlib import Path
from acpt_trainer.ort.cache import ExportCache
sys.path[:0] = sys.argv[2:]
from test_ort_cache import gpt2, train
model, folder = gpt2(), Path(sys.argv[1])
(folder / f"ready-{os.getpid()}").touch()
while len(list(folder.glob("ready-*"))) < 2:
    time.sleep(0.01)
print(*train(model, ExportCache(folder)), flush=True)
"""


@pytest.mark.slow
def test_two_processes_at_once_make_one_export(tmp_path: Path) -> None:
    here = Path(__file__)
    folders = [str(folder) for folder in (tmp_path, here.parent, here.parents[1])]
    done = launch(["-c", WORKER, *folders], processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    results = [line.split(maxsplit=1) for line in done.stdout.splitlines()]

    assert sorted(use for use, _ in results) == ["hit", "miss"]
    assert results[0][1] == results[1][1]
    assert len(list((tmp_path / "exports").glob("*.onnx"))) == 1


def test_the_log_says_how_the_cache_was_used(
    cache: ExportCache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="acpt_trainer")
    train(gpt2(), cache)
    train(gpt2(), cache)
    assert "(cache: miss)" in caplog.text
    assert "(cache: hit)" in caplog.text
