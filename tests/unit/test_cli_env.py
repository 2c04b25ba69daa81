"""What `acpt-trainer env` shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from acpt_trainer import ConfigurationError
from acpt_trainer.cli import app, env
from acpt_trainer.strategies import ort_inspect


def kept(intact: bool) -> dict[str, object]:
    versions = {"torch": "9.8", "onnxruntime": "7.6", "compiler": "c++ 5"}
    return {"folder": "there", "intact": intact, **versions}


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's part without ONNX Runtime."""
    part = {
        "missing": [],
        "providers": ["CPUExecutionProvider"],
        "patches": [
            {"name": "one", "needed": True, "scope": "build", "why": "it breaks"},
            {"name": "other", "needed": False, "scope": "process", "why": "it broke"},
        ],
        "extensions": [
            {"name": "first", "loaded": True, "built": [kept(True), kept(False)]},
            {"name": "second", "loaded": False, "built": []},
        ],
    }
    monkeypatch.setattr(env, "onnxruntime_training", lambda: part)
    monkeypatch.setattr(env, "deepspeed_operators", lambda: {"async_io": False, "cpu_adam": True})


def test_text_and_json_say_the_same(no_engine: None) -> None:
    text = CliRunner().invoke(app, ["env"]).stdout
    found = json.loads(CliRunner().invoke(app, ["env", "--json"]).stdout)

    assert f"torch {found['packages']['torch']}" in text
    assert found["cpu"]["model"] in text
    assert "+ one (build)" in text
    assert "- other (process)" in text
    assert found["ort"]["providers"][0] in text
    assert (
        "extensions    first (loaded)\n"
        "              built: torch 9.8, onnxruntime 7.6, c++ 5\n"
        "              torn, to be built again: there\n"
        "              second (not loaded)\n"
        "              not built; a graph that needs it builds it\n"
    ) in text
    assert [e["name"] for e in found["ort"]["extensions"]] == ["first", "second"]
    assert "              operators: async_io no, cpu_adam yes\n" in text
    assert found["deepspeed_operators"] == {"async_io": False, "cpu_adam": True}
    assert "check" not in found


def test_what_may_be_secret_is_not_shown() -> None:
    shown = env.variables(
        {"ACCELERATE_API_KEY": "abc", "HF_TOKEN": "abc", "ORTMODULE_X": "1", "CXX": "g++", "A": "b"}
    )
    assert shown == {"ACCELERATE_API_KEY": "(set, not shown)", "CXX": "g++", "ORTMODULE_X": "1"}


def test_instruction_sets_are_those_of_the_first_core(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("model name\t: Fast\nflags\t\t: fpu avx2 amx_tile\n\nmodel name : Slow\n")
    found = env.cpu(file)
    assert found["model"] == "Fast"
    assert [k for k, v in found["features"].items() if v] == ["avx2", "amx_tile"]
    assert env.cpu(tmp_path / "none")["features"] is None


def test_missing_engine_is_named_and_cannot_be_checked(missing: Callable[..., None]) -> None:
    missing("onnxruntime")
    found = env.onnxruntime_training()
    assert "onnxruntime-training-cpu" in found["missing"][0]
    result = CliRunner().invoke(app, ["env", "--check"])
    assert isinstance(result.exception, ConfigurationError)
    assert result.stdout == ""


def test_engine_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[str]:
        raise ImportError("libcudart.so.11.0: cannot open shared object file")

    monkeypatch.setattr(ort_inspect, "providers", broken)
    assert "libcudart" in env.onnxruntime_training()["missing"][0]


def test_check_that_differs_is_shown_and_stops(
    no_engine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = {"untested": ["torch 9"], "different": ["the value of where"]}
    monkeypatch.setattr(ort_inspect, "self_check", lambda: outcome)
    result = CliRunner().invoke(app, ["env", "--check", "--json"])
    assert json.loads(result.stdout)["check"] == outcome
    assert isinstance(result.exception, ConfigurationError)
    assert "the value of where" in str(result.exception)
    assert "self-check with torch 9" in str(result.exception)
