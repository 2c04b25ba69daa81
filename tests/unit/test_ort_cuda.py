"""CUDA without a GPU: what is missing is named, and graphs are told torch's stream."""

from __future__ import annotations

import ctypes
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from acpt_trainer import ConfigurationError, GraphBuildError, ort_fused_adam
from acpt_trainer.ort import cuda, fused_adam
from acpt_trainer.strategies.base import TrainingContext
from acpt_trainer.strategies.ortmodule import OrtStrategy


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What is loaded; only files of the folder on the path can be."""
    names: list[str] = []

    def load(name: str) -> None:
        if not Path(name).is_file():
            raise OSError(name)
        names.append(name)

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(cuda.sys, "path", [str(tmp_path)])
    return names


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    made = SimpleNamespace(capability=(8, 0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: made.capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Made Up 1000")
    return made


def install(tmp_path: Path, but: str = "") -> None:
    for library, folder, _ in cuda.LIBRARIES:
        if library != but:
            path = tmp_path / "nvidia" / folder / "lib" / library
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()


def test_libraries_are_loaded_from_their_packages(loaded: list[str], tmp_path: Path) -> None:
    install(tmp_path)
    assert cuda.load_libraries() == []
    assert [Path(p).name for p in loaded] == [name for name, _, _ in cuda.LIBRARIES]
    assert Path(loaded[1]).name == "libcublasLt.so.11", "cuBLAS itself needs it"


def test_all_missing_libraries_are_named_with_their_packages(
    loaded: list[str], tmp_path: Path, gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "_has_provider", lambda: True)
    (problem,) = cuda.problems()
    for library, _, package in cuda.LIBRARIES:
        assert f"{library} ({package})" in problem.what
    install(tmp_path, but="libcudnn.so.8")
    (problem,) = cuda.problems()
    assert "libcudnn.so.8 (nvidia-cudnn-cu11<9)" in problem.what
    assert "libcublas" not in problem.what


def test_a_build_for_cpus_is_named(loaded: list[str], tmp_path: Path, gpu: Any) -> None:
    install(tmp_path)
    (problem,) = cuda.problems()
    assert "build for CPUs" in problem.what
    assert "acpt-trainer[ort-gpu]" in problem.fix


@pytest.mark.parametrize(
    ("capability", "known"),
    [((5, 2), False), ((7, 5), True), ((9, 0), True), ((10, 0), False), ((12, 0), False)],
)
def test_gpus_that_cuda_11_does_not_know_are_refused(
    gpu: Any, capability: tuple[int, int], known: bool
) -> None:
    gpu.capability = capability
    found = cuda._gpu_problems()
    assert (found == []) is known
    if found:
        assert f"{capability[0]}.{capability[1]}" in found[0].what
        assert found[0].where == "Made Up 1000"


def test_the_strategy_asks_on_cuda_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(cuda, "problems", lambda: asked.append(1) or [])
    OrtStrategy().problems(TrainingContext("fp32", "cpu"))
    assert not asked
    OrtStrategy().problems(TrainingContext("fp32", "cuda"))
    assert asked


class Manager:
    """What stands in for ORTModule's manager."""

    _device = torch.device("cuda", 0)
    _get_torch_gpu_allocator_function_addresses: Any = None

    def _get_session_config(self) -> Any:
        return None, [cuda.PROVIDER, "CPUExecutionProvider"], [{"device_id": "0"}, {}]


def test_graphs_run_on_torchs_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(GraphExecutionManager=Manager)
    monkeypatch.setattr(cuda.importlib, "import_module", lambda name: module)
    monkeypatch.setattr(
        torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=7 + device.index)
    )
    with ExitStack() as stack:
        cuda.share_stream(stack)
        manager = Manager()
        manager._runtime_options = SimpleNamespace(use_external_gpu_allocator=True)  # type: ignore[attr-defined]
        manager._get_torch_gpu_allocator_function_addresses()
        assert not manager._runtime_options.use_external_gpu_allocator  # type: ignore[attr-defined]
        _, _, (options, cpu) = manager._get_session_config()
    assert options == {
        "device_id": "0",
        "has_user_compute_stream": "1",
        "user_compute_stream": "7",
    }
    assert cpu == {}
    assert cuda.stream_of(torch.device("cpu")) is None
    assert cuda.stream_of(torch.device("cuda", 0)) == 7
    assert Manager._get_torch_gpu_allocator_function_addresses is None


@pytest.mark.parametrize("providers", [["CPUExecutionProvider"], [cuda.PROVIDER]], ids=str)
def test_a_graph_on_the_cpu_of_a_model_on_the_gpu_is_refused(providers: list[str]) -> None:
    session = SimpleNamespace(get_providers=lambda: providers)
    manager = SimpleNamespace(
        _device=torch.device("cuda", 0),
        _execution_agent=SimpleNamespace(_inference_session=session),
    )
    module = SimpleNamespace(_torch_module=SimpleNamespace(_execution_manager=lambda _: manager))
    if cuda.PROVIDER in providers:
        cuda.verify_provider(module)
        return
    with pytest.raises(GraphBuildError, match="CPUExecutionProvider"):
        cuda.verify_provider(module)


def arguments() -> Any:
    return SimpleNamespace(learning_rate=2e-4, adam_beta1=0.8, adam_beta2=0.9, adam_epsilon=1e-8)


def test_fused_adam_is_refused_by_name_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"CUDA only(?s:.*)adamw_torch_fused"):
        ort_fused_adam(arguments())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(fused_adam, "_compiled", lambda: False)
    with pytest.raises(ConfigurationError, match=r"not compiled(?s:.*)adamw_torch_fused"):
        ort_fused_adam(arguments())


def test_fused_adam_computes_torchs_adamw(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime.training.optim.fused_adam")
    from onnxruntime.training.optim.fused_adam import AdamWMode, FusedAdam

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(fused_adam, "_compiled", lambda: True)
    made, options = ort_fused_adam(arguments())
    assert made is FusedAdam
    assert options == {
        "lr": 2e-4,
        "betas": (0.8, 0.9),
        "eps": 1e-8,
        "adam_w_mode": AdamWMode.ADAMW_TORCH,
    }
