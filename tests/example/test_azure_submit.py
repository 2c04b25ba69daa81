"""Submitting with the real SDK: what is sent, and what is checked before."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from homer.azure import staging
from homer.azure.emulator import Fault
from homer.azure.sizes import has_gpu, too_old_gpu
from submit_runs import Submit

GOLDEN = Path(__file__).parent / "golden" / "aml_submit.json"
_IDS = (
    ("[0-9a-f]{64}", "HASH"),
    ("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "GUID"),
    ("(?<=/codes-)[0-9a-f]{8}", "ID"),
    ("(?<=/jobs/)[^/]+$", "JOB"),
)


def normal(value: Any) -> Any:
    """A request without what differs between two runs."""
    if isinstance(value, dict):
        # The hash is of the whole package: it would change with every commit.
        return {name: normal(part) for name, part in value.items()}
    if isinstance(value, list):
        return [normal(part) for part in value]
    if isinstance(value, str):
        for pattern, name in _IDS:
            value = re.sub(pattern, name, value)
    return value


def test_requests_are_the_golden_ones(submit: Submit, capsys: Any) -> None:
    """`UPDATE_GOLDEN=1 pytest ...` writes the file anew; look at the diff."""
    submit.forget_code()
    options = ("--run_config", "ds_ort", "--nnode", "2", "--max_steps", "7", "--batch_size", "3")
    assert submit(*options) == 0
    made = [
        {"request": f"{r['method']} {r['path']}", "body": r.get("json")}
        for r in submit.emulator.requests
        if r["host"] == "management.azure.com"
    ]
    made = normal(made)
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(made, indent=1) + "\n")
    assert made == json.loads(GOLDEN.read_text())
    assert submit.emulator.refused == []
    shown = capsys.readouterr().out
    name = submit.sent("PUT", "/jobs/")[0]["path"].rsplit("/", 1)[1]
    assert f"job: {name}" in shown
    assert f"studio: https://ml.azure.com/runs/{name}" in shown
    assert "python aml_deploy.py --ws_config" in shown


def test_nothing_is_sent_twice(submit: Submit) -> None:
    """The same files are found by their hash, and the image by its content."""
    assert submit() == 0
    assert submit() == 0
    assert submit.sent("PUT", "/acpt_trainer/") == []
    assert submit.sent("PUT", "/jobs/")


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (("--compute", "nope"), 4, ["no such compute", "gpu8 (Standard_ND96asr_v4)", "--max-inst"]),
        (("--compute", "cpu"), 2, ["Standard_DS3_v2 has no GPU"]),
        (("--compute", "gpu4"), 2, ["8 processes a node", "--nproc_per_node 4"]),
        (("--nnode", "9"), 2, ["9 nodes", "at most 4", "--nnode 4"]),
        (("--compute", "kubernetes"), 2, ["kubernetes, no training cluster"]),
        (
            ("--compute", "notebook", "--nnode", "3", "--batch_size", "0"),
            2,
            ["3 problems found", "at most 1", "--nproc_per_node 1", "--batch_size"],
        ),
    ],
)
def test_compute_that_does_not_fit_is_said_before_an_upload(
    submit: Submit, capsys: Any, options: tuple[str, ...], status: int, said: list[str]
) -> None:
    assert submit(*options) == status
    error = capsys.readouterr().err
    for words in said:
        assert words in error
    assert submit.sent("PUT", "") == []
    assert submit.sent("POST", "startPendingUpload") == []


def test_local_and_azures_problems_come_in_one_message(
    submit: Submit, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "DATA", submit.folder / "nothing")
    assert submit("--compute", "nope", "--max_steps", "0") == 4
    error = capsys.readouterr().err
    assert "4 problems found" in error
    for words in ("no such compute", "--max_steps", "training_raw.txt", "validation_raw.txt"):
        assert words in error


def test_sizes_that_may_not_be_listed_are_no_obstacle(submit: Submit, capsys: Any) -> None:
    denied = Fault("GET .*/vmSizes", status=403, code="AuthorizationFailed", times=2)
    assert submit(faults=(denied,)) == 0
    assert "its number of GPUs is not checked" in capsys.readouterr().out
    assert submit("--compute", "cpu", faults=(denied,)) == 2
    assert "has no GPU" in capsys.readouterr().err


def test_gpus_without_code_in_torch_are_warned_about(submit: Submit, capsys: Any) -> None:
    assert submit("--compute", "k80", "--nproc_per_node", "1") == 0
    assert "note: Standard_NC6 has K80 GPUs, which the image" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("size", "gpu"),
    [
        ("Standard_NC24r_Promo", "K80"),
        ("STANDARD_NV12", "M60"),
        ("Standard_NV12s_v3", "M60"),
        ("Standard_ND24rs", "P40"),
        ("Standard_NC6s_v2", "P100"),
        ("Standard_NC24rs_v3", "V100"),
        ("Standard_ND40rs_v2", "V100"),
        ("Standard_NC4as_T4_v3", None),
        ("Standard_NC24ads_A100_v4", None),
        ("Standard_ND96asr_v4", None),
        ("Standard_NV36ads_A10_v5", None),
        ("Standard_ND96isr_H100_v5", None),
    ],
)
def test_gpu_of_a_size_is_known_by_its_series(size: str, gpu: str | None) -> None:
    assert too_old_gpu(size) == gpu
    assert has_gpu(size)
    assert not has_gpu("Standard_DS3_v2")


def test_idle_gpus_are_said(submit: Submit, capsys: Any) -> None:
    assert submit("--nproc_per_node", "6") == 0
    assert "note: 2 of the 8 GPUs" in capsys.readouterr().out
