"""The command line with the real engine, each command in a process of its own."""

from __future__ import annotations

import json

from conftest import launch

from acpt_trainer.ort.patches import PATCHES

MAIN = ["-c", "from acpt_trainer.cli import main; main()"]


def test_env_checks_a_step_and_lists_every_patch() -> None:
    done = launch([*MAIN, "env", "--check", "--json"], 1, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [p["name"] for p in found["ort"]["patches"]] == [p.name for p in PATCHES]
    needed = {p["name"]: p["needed"] for p in found["ort"]["patches"]}
    assert needed["torchscript-exporter"]
    assert "CPUExecutionProvider" in found["ort"]["providers"]
    assert found["check"]["different"] == []
    assert found["environment"]["OMP_NUM_THREADS"] == "1"
