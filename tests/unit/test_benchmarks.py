"""The script that reproduces the figures: its bars, and the configs that it names."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from acpt_trainer.measure.entry import parse_entries

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def reproduce(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("reproduce", FOLDER / "reproduce.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "reproduce", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "HERE", tmp_path)
    (tmp_path / "results").mkdir()
    return module


def written(folder: Path, name: str, **speedups: Any) -> None:
    rows = [
        {"strategy": s, "speedup": v, "mfu": 0.8, "break_even_steps": None, "tokens_per_second": 9}
        for s, v in speedups.items()
    ]
    details = [{"report": {"evidence": {"graphs": 1}}, "optimizer_state_bytes": 10}] * len(rows)
    file = folder / "results" / f"bench_{name}.json"
    file.write_text(json.dumps({"rows": rows, "details": details}))


def test_every_figure_has_its_config_and_page(reproduce: ModuleType) -> None:
    page = (FOLDER / "README.md").read_text()
    for name, figure in reproduce.FIGURES.items():
        assert f"`{name}`" in page
        assert (FOLDER / "configs" / f"{figure.model}.json").is_file()
        assert parse_entries(figure.strategies, "fp32", None)[1] == []


def test_bars_are_held_to_what_was_measured(reproduce: ModuleType, tmp_path: Path) -> None:
    written(tmp_path, "gpt2_124m", no_acc=1.0, **{"no_acc:eager": 1.1}, ort=1.54)
    lines = "\n".join(reproduce.summary())
    assert "| at least 1.3 | 1.4 | yes |" in lines
    assert "at least 0.75 | 0.8 | yes" in lines
    assert "at most 30 | - | no" in lines  # never paid back
    for name in reproduce.SEVEN:
        written(tmp_path, f"seven_{name}", no_acc=1.0, ort=0.9 if name == "t5" else 1.3)
    lines = reproduce.summary()
    assert any("t5 at a CPU size" in line and "| 0.9 | no |" in line for line in lines)
    assert any("geometric mean" in line and "| 1.23 | yes |" in line for line in lines)
    assert "40 lengths" not in "\n".join(lines)
    written(tmp_path, "two_processes", no_acc=1.0, ds=None, ds_ort=2.0)
    assert any("`ds` over DDP | at least 0.95 | - | no" in line for line in reproduce.summary())
