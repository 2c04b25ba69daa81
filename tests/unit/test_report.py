"""The report of what ran, and the `strategy.json` beside every checkpoint."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from acpt_trainer import report as report_module
from acpt_trainer.report import (
    STRATEGY_FILE,
    StrategyReport,
    read_report,
    versions,
    write_report,
)


def made_up(**changed: Any) -> StrategyReport:
    given: dict[str, Any] = {
        "strategy": "ds_ort",
        "status": "engaged",
        "reason": None,
        "precision": "fp32",
        "device": "cpu",
        "world_size": 2,
        "evidence": {
            "ort": {"graphs": 1, "fused_ops": {"Gelu": 2}, "patches": ["a", "b"]},
            "ds": {"steps": 3},
        },
    }
    return StrategyReport(**{**given, **changed})


def test_report_is_a_mapping_of_its_fields() -> None:
    report = made_up()
    assert isinstance(report, Mapping)
    assert report["strategy"] == report.strategy == "ds_ort"
    assert dict(report) == report.to_dict()
    assert len(report) == len(list(report)) == len(report.to_dict())
    assert "status" in report
    with pytest.raises(KeyError, match="speed"):
        _ = report["speed"]


def test_report_holds_nothing_but_its_fields() -> None:
    assert "to_dict" not in made_up()


def test_report_is_readable_when_printed() -> None:
    assert str(made_up()).splitlines() == [
        "strategy ds_ort: engaged (fp32 on cpu, 2 processes)",
        "  ort:",
        "    graphs: 1",
        "    fused_ops: Gelu x2",
        "    patches: a, b",
        "  ds:",
        "    steps: 3",
    ]


def test_report_prints_the_reason_and_one_process() -> None:
    text = str(
        made_up(
            strategy="ort",
            status="pending",
            reason="no step yet",
            world_size=1,
            evidence={"aten_ops": {}, "fused_ops": {"Gelu": 2, "LayerNorm": 1}, "patches": []},
        )
    )
    assert text.splitlines() == [
        "strategy ort: pending (fp32 on cpu, 1 process)",
        "  reason: no step yet",
        "  aten_ops: none",
        "  fused_ops: Gelu x2, LayerNorm x1",
        "  patches: none",
    ]


def test_write_report_is_read_back(tmp_path: Path) -> None:
    report = made_up(options={"ort": {"max_graphs": 8}}, versions=versions())
    path = write_report(report, tmp_path)
    assert path == tmp_path / STRATEGY_FILE
    assert read_report(tmp_path) == report.to_dict() == json.loads(path.read_text())
    assert os.listdir(tmp_path) == [STRATEGY_FILE]


def test_write_report_replaces_the_old_one(tmp_path: Path) -> None:
    write_report(made_up(world_size=2), tmp_path)
    write_report(made_up(world_size=4), os.fspath(tmp_path))
    assert read_report(tmp_path)["world_size"] == 4  # type: ignore[index]


def test_write_report_failing_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_report(made_up(world_size=2), tmp_path)
    before = (tmp_path / STRATEGY_FILE).read_bytes()
    seen: list[list[str]] = []

    def fail(source: Any, target: Any) -> None:
        seen.append(sorted(os.listdir(tmp_path)))
        raise OSError("the disk is gone")

    monkeypatch.setattr(report_module.os, "replace", fail)
    with pytest.raises(OSError, match="the disk is gone"):
        write_report(made_up(world_size=4), tmp_path)
    assert len(seen[0]) == 2  # it was written beside the old one, never over it
    assert os.listdir(tmp_path) == [STRATEGY_FILE]
    assert (tmp_path / STRATEGY_FILE).read_bytes() == before


def test_write_report_failing_to_serialize_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_report(made_up(options={"config": object()}), tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"\xff\xfe\x00", b"[1, 2]", b"null"], ids=repr
)
def test_read_report_of_nothing_useful_is_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / STRATEGY_FILE).write_bytes(content)
    assert read_report(tmp_path) is None
    assert read_report(tmp_path / "nowhere") is None


def test_versions_are_of_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"torch": "9.9", "onnxruntime-training-cpu": "1.19.2"}

    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert versions() == {"python": platform.python_version(), **installed}
