"""`acpt-trainer verify` as a user runs it, each time in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from strategy_runs import launch

MAIN = ["-c", "from acpt_trainer.cli import main; main()", "verify"]

WRONG = """
from acpt_trainer import register_strategy
from acpt_trainer.strategies.eager import EagerStrategy

@register_strategy("wrong")
class Wrong(EagerStrategy):
    def wrap_model(self, model):
        model.get_parameter("transformer.h.1.ln_1.weight").register_hook(lambda g: -g)
        return model
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("ACPT_TRAINER_CACHE", str(tmp_path / "cache"))
    config = tmp_path / "config.json"
    made = {"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 16}
    config.write_text(json.dumps({**made, "vocab_size": 32, "bos_token_id": 1, "eos_token_id": 2}))
    return [*MAIN, "--model", str(config), "--block-size", "16", "--steps", "3"]


@pytest.mark.slow
def test_verify_holds(model: list[str]) -> None:
    strategy = "ds_ort"
    done = launch([*model, "--strategy", strategy, "--json"], 1)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    found = json.loads(done.stdout)  # nothing else, whatever DeepSpeed prints
    assert found["status"] == "holds"
    assert found["report"]["status"] == "engaged"
    assert found["report"]["strategy"] == strategy
    assert len(found["losses"]) == 3
    assert len(found["gradients"]) == len(found["results"]) == 28
    assert 0 <= found["gradients"][found["worst_gradient"]] <= found["tolerance"]["gradient"]
    assert found["dropout"] == "the same distribution of losses"
    assert f"{strategy}, step 3 of 3" in done.stderr


@pytest.mark.slow
@pytest.mark.distributed
def test_verify_averages_over_processes(model: list[str]) -> None:
    done = launch([*model, "--strategy", "ddp", "--nproc", "2", "--draws", "0", "--json"], 1)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["status"] == "holds"
    assert found["report"]["world_size"] == 2
    # Each process has other rows: a loss of one alone is not that of all.
    assert max(step["difference"] for step in found["losses"]) <= found["tolerance"]["loss"]


def test_verify_names_the_parameter_whose_gradient_is_wrong(
    model: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made_up_wrong.py").write_text(WRONG)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    done = launch([*model, "--strategy", "wrong", "--import", "made_up_wrong", "--draws", "0"], 1)
    assert done.returncode == 1, done.stdout + done.stderr[-2000:]
    assert "first differing parameter: transformer.h.1.ln_1.weight" in done.stdout
    assert "step 1: the gradient of transformer.h.1.ln_1.weight differs by" in done.stdout
    assert "Traceback" not in done.stderr


def test_verify_mistake_ends_with_status_2(model: list[str]) -> None:
    done = launch([*model, "--strategy", "ort", "--precision", "fp16", "--draws", "1"], 1)
    assert done.returncode == 2
    assert "2 problems found" in done.stderr
    assert not done.stdout
