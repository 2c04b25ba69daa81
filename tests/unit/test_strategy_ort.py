"""`ort` without an engine: what it refuses before training."""

from __future__ import annotations

import importlib.metadata
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from acpt_trainer.errors import Problem
from acpt_trainer.ort import patches
from acpt_trainer.strategies.base import TrainingContext
from acpt_trainer.strategies.ortmodule import OrtStrategy

Args = Callable[..., Any]
ORT_WHEELS = {"onnxruntime-training-cpu": "1.19.2", "onnx": "1.17"}


@pytest.fixture(autouse=True)
def installed(missing: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What importlib.metadata finds: one ONNX Runtime, until a test adds another."""
    found = dict(ORT_WHEELS)
    original = importlib.metadata.version

    def version(name: str) -> str:
        if not name.startswith("onnx"):
            return original(name)
        if name not in found:
            raise importlib.metadata.PackageNotFoundError(name)
        return found[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    missing()
    return found


def problems(args: Any = None, model: Any = None, **options: Any) -> list[Problem]:
    return OrtStrategy(**options).problems(TrainingContext("fp32", "cpu", 1, args, model))


def test_ort_has_no_problems_with_plain_arguments_and_model() -> None:
    assert problems(SimpleNamespace(), nn.Sequential(nn.Linear(2, 2), nn.Dropout())) == []


def test_ort_accepts_the_defaults_of_the_arguments(make_args: Args) -> None:
    assert problems(make_args()) == []


@pytest.mark.parametrize(
    ("said", "what", "where"),
    [
        ({"neftune_noise_alpha": 5.0}, "NEFTune", "neftune_noise_alpha=5.0"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_ort_refuses_arguments(said: dict[str, Any], what: str, where: str) -> None:
    (problem,) = problems(SimpleNamespace(**said))
    assert what in problem.what
    assert where in problem.where
    assert problem.fix


@pytest.fixture
def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(
            n_embd=8,
            n_layer=1,
            n_head=1,
            vocab_size=11,
            n_positions=8,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def test_ort_looks_at_the_model_without_a_warning(gpt2: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert problems(model=gpt2) == []


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm])
def test_ort_refuses_batch_normalization_by_the_layer_s_name(kind: type[nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(kind(2), kind(2)))
    (problem,) = problems(model=model)
    assert "running statistics of 2 normalization layers" in problem.what
    assert problem.where == "Sequential.1.0"
    assert "track_running_stats=False" in problem.fix


def test_ort_accepts_normalization_without_running_statistics() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), nn.LayerNorm(2))
    assert problems(model=model) == []


@pytest.mark.parametrize("policy", ["FALLBACK_UNSUPPORTED_DEVICE", "FALLBACK_FORCE_TORCH_FORWARD"])
def test_ort_refuses_a_fallback_policy(monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    monkeypatch.setenv("ORTMODULE_FALLBACK_POLICY", policy)
    (problem,) = problems()
    assert problem.where == f"ORTMODULE_FALLBACK_POLICY={policy}"
    assert "unset ORTMODULE_FALLBACK_POLICY" in problem.fix
    monkeypatch.setenv("ORTMODULE_FALLBACK_POLICY", "FALLBACK_DISABLE")
    assert problems() == []


@pytest.mark.parametrize("other", ["onnxruntime", "onnxruntime-gpu", "onnxruntime-training"])
def test_ort_refuses_two_onnx_runtimes(installed: dict[str, str], other: str) -> None:
    installed[other] = "1.20"
    (problem,) = problems()
    assert other in problem.what
    assert "onnxruntime-training-cpu" in problem.what
    assert problem.fix.startswith("pip uninstall -y ")
    del installed["onnxruntime-training-cpu"]
    assert problems() == []


@pytest.mark.parametrize("max_graphs", [0, -1, 1.5, "8", None, True], ids=repr)
def test_ort_refuses_an_unusable_number_of_graphs(max_graphs: Any) -> None:
    (problem,) = problems(max_graphs=max_graphs)
    assert problem.what == f"max_graphs is {max_graphs!r}"
    assert problem.fix == "give an int >= 1"


def test_ort_takes_the_number_of_graphs() -> None:
    assert problems(max_graphs=1) == []
    assert OrtStrategy(max_graphs=3).options()["max_graphs"] == 3
    assert OrtStrategy(cache=Path("here")).options() == {
        "max_graphs": 8,
        "cache": "here",
        "recompute": None,
    }


@pytest.mark.parametrize("cache", [None, 1, "", [True]], ids=repr)
def test_ort_refuses_an_unusable_cache(cache: Any) -> None:
    (problem,) = problems(cache=cache)
    assert problem.what == f"cache is {cache!r}"


@pytest.mark.parametrize(
    ("option", "root"), [(True, None), ("here", "here"), (Path("here"), Path("here"))]
)
def test_ort_keeps_exports_where_it_is_told(
    monkeypatch: pytest.MonkeyPatch, option: Any, root: Any
) -> None:
    monkeypatch.setattr(patches, "start", lambda: ())
    monkeypatch.setattr(patches, "stop", lambda: None)
    model = OrtStrategy(cache=option).wrap_model(nn.Linear(2, 2))
    assert model.__dict__["forward"].cache.root == root
    model = OrtStrategy(cache=False).wrap_model(nn.Linear(2, 2))
    assert model.__dict__["forward"].cache is None


@pytest.mark.parametrize(
    ("precision", "device"), [("bf16", "cpu"), ("fp16", "cpu"), ("bf16", "cuda")]
)
def test_ort_refuses_precisions_by_name(
    monkeypatch: pytest.MonkeyPatch, precision: str, device: str
) -> None:
    monkeypatch.setattr("acpt_trainer.ort.cuda.problems", lambda: [])
    (problem,) = OrtStrategy().problems(TrainingContext(precision, device))
    assert problem.what == f"strategy 'ort' does not train in {precision} on {device}"
    assert "'fp32'" in problem.fix


def test_ort_collects_problems_of_every_kind(
    installed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    installed["onnxruntime"] = "1.20"
    monkeypatch.setenv("ORTMODULE_FALLBACK_POLICY", "FALLBACK_FORCE_TORCH_FORWARD")
    context = TrainingContext(
        "bf16",
        "cpu",
        1,
        SimpleNamespace(neftune_noise_alpha=5.0),
        nn.BatchNorm1d(2),  # type: ignore[arg-type]
    )
    assert len(OrtStrategy(max_graphs=0).problems(context)) == 6


def test_missing_packages_are_named(missing: Callable[..., None]) -> None:
    missing("onnxruntime", "onnx")
    found = problems()
    assert [p.fix for p in found] == ["pip install 'acpt-trainer[ort]'"] * 2
    assert "'onnxruntime-training-cpu'" in found[0].what


def test_looking_for_problems_imports_no_onnx_runtime(
    run_python: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = run_python(
        "-c",
        "import sys\n"
        "from acpt_trainer import TrainingContext, get_strategy\n"
        "get_strategy('ort').build().problems(TrainingContext('fp32', 'cpu'))\n"
        "print([m for m in ('torch', 'onnxruntime', 'onnx') if m in sys.modules])",
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_ort_refuses_layer_dropping_by_the_config_s_name() -> None:
    model = nn.Linear(1, 1)
    model.config = SimpleNamespace(layerdrop=0.5)  # type: ignore[assignment]
    (problem,) = problems(model=model)
    assert problem.where == "SimpleNamespace.layerdrop=0.5"
    model.config.layerdrop = 0.0  # type: ignore[union-attr]
    assert problems(model=model) == []
