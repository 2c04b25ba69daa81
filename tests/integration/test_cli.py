"""The command line with the real engine, each command in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from strategy_runs import launch

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
    assert found["deepspeed_operators"]["cpu_adam"]  # the compiler is here
    assert found["environment"]["OMP_NUM_THREADS"] == "1"


def test_graph_writes_the_graph_that_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACPT_TRAINER_CACHE", str(tmp_path / "cache"))
    config, out = tmp_path / "config.json", tmp_path / "out" / "graph"
    made = {"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 16}
    config.write_text(json.dumps({**made, "vocab_size": 32, "bos_token_id": 1, "eos_token_id": 2}))
    command = [*MAIN, "graph", "--model", str(config), "--output_dir", str(out)]
    command += ["--block_size", "8"]

    done = launch([*command, "--json"], 1, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == json.loads((out / "training_graph.json").read_text())
    graph = onnx.load(str(out / "training_graph.onnx")).graph
    found = json.loads((out / "training_graph.json").read_text())
    assert found["nodes"] == len(graph.node) == found["forward_nodes"] + found["backward_nodes"]
    assert found["backward_nodes"] > 10
    assert found["operators"]["YieldOp"] == 1
    assert found["cache"] == "miss"
    assert [2, 8] in found["shapes_of_inputs"]
    assert any(output.name.endswith("wte.weight_grad") for output in graph.output)
    assert not [i.name for i in graph.initializer if i.name.endswith(".weight")]
    assert f"forward {found['forward_nodes']} " in (out / "training_graph.md").read_text()

    again = launch(command, 1, timeout=120)
    assert again.returncode == 2
    assert again.stderr.count("error:") == 1
    assert "there is a training graph already" in again.stderr
    assert "Traceback" not in again.stderr
