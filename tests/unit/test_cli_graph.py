"""`acpt-trainer graph`: mistakes, models by config, made-up batches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from onnx import helper
from typer.testing import CliRunner

from acpt_trainer import ConfigurationError, NotEngagedError
from acpt_trainer.cli import app
from acpt_trainer.measure.models import load_model, sample_batch
from acpt_trainer.ort.graph import forward_nodes
from acpt_trainer.strategies.ortmodule import OrtStrategy

CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 16, "vocab_size": 32},
    "bert": {
        "architectures": ["BertForSequenceClassification"], "hidden_size": 8, "vocab_size": 32,
        "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
    },
    "vit": {
        "architectures": ["ViTForImageClassification"], "hidden_size": 8, "image_size": 8,
        "patch_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8,
    },
    "wav2vec2": {
        "architectures": ["Wav2Vec2ForCTC"], "hidden_size": 8, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 8, "conv_dim": [8], "conv_kernel": [3],
        "conv_stride": [2], "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
    },
}  # fmt: skip


def config_file(folder: Path, kind: str, **changes: Any) -> str:
    file = folder / f"{kind}.json"
    tokens = {"bos_token_id": 1, "eos_token_id": 2}
    file.write_text(json.dumps({"model_type": kind, **tokens, **CONFIGS[kind], **changes}))
    return str(file)


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["graph", *arguments])
    assert isinstance(result.exception, ConfigurationError), result.output
    return str(result.exception)


def test_mistakes_are_named_together(tmp_path: Path) -> None:
    (tmp_path / "training_graph.md").write_text("an earlier one")
    said = refused(
        "--model", "none.json", "--output_dir", str(tmp_path), "--batch_size", "0",
        "--block_size", "1",
    )  # fmt: skip
    assert said.startswith("Cannot write a graph: 3 problems found.")
    assert "--overwrite" in said
    assert (tmp_path / "training_graph.md").read_text() == "an earlier one"


def test_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/below"):
        said = refused("--model", "none.json", "--output_dir", str(tmp_path / folder))
        assert f"{tmp_path / 'file'} is a file" in said


@pytest.mark.parametrize("text", [None, "{", "{}", '{"model_type": "gpt9"}'])
def test_config_that_is_none_is_refused(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "config.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigurationError, match="the model cannot be loaded") as caught:
        load_model(str(file))
    assert f"--model {file}" in str(caught.value)


@pytest.mark.parametrize("name", ["./models/mine", "/models/mine", "a/b/c", "mine.json"])
def test_path_that_is_not_there_is_no_name_on_the_hub(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"there is no {name}"):
        load_model(name)


def test_model_without_a_loss_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no model of type 'vit' that computes a loss"):
        load_model(config_file(tmp_path, "vit", architectures=["ViTModel"]))


def test_architecture_that_takes_no_labels_becomes_a_language_model(tmp_path: Path) -> None:
    model = load_model(config_file(tmp_path, "gpt2", architectures=["GPT2Model"]))
    assert type(model).__name__ == "GPT2LMHeadModel"


@pytest.mark.parametrize("kind", ["gpt2", "bert", "vit"])
def test_sample_trains(tmp_path: Path, kind: str) -> None:
    model = load_model(config_file(tmp_path, kind))
    batch = sample_batch(model, 3, 5)
    assert {len(tensor) for tensor in batch.values()} == {3}
    model(**batch).loss.backward()


def test_model_is_loaded_in_fp32_from_config_and_folder(tmp_path: Path) -> None:
    model = load_model(config_file(tmp_path, "gpt2", dtype="bfloat16"))
    assert model.dtype == torch.float32
    model.to(torch.bfloat16).save_pretrained(tmp_path / "saved")
    loaded = load_model(str(tmp_path / "saved"))
    assert loaded.dtype == torch.float32
    assert loaded.lm_head.weight.equal(model.lm_head.weight.float())


def test_rows_that_are_too_long_are_refused(tmp_path: Path) -> None:
    model = load_model(config_file(tmp_path, "gpt2"))
    with pytest.raises(ConfigurationError, match="at most 16 tokens"):
        sample_batch(model, 2, 17)


def test_sound_is_refused_with_the_way_out(tmp_path: Path) -> None:
    model = load_model(config_file(tmp_path, "wav2vec2"))
    with pytest.raises(ConfigurationError, match=r"takes input_values(?s:.*)write_graph"):
        sample_batch(model, 2, 5)


def test_strategy_that_did_not_start_has_no_graph(tmp_path: Path) -> None:
    with pytest.raises(NotEngagedError, match="no training graph"):
        OrtStrategy().write_graph(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_forward_nodes_are_those_before_the_outputs() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Split", ["a"], ["b", "c"]),
        helper.make_node("YieldOp", ["b", "c"], ["g"]),
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("ReluGrad", ["g", "s"], ["x_grad"]),
    ]
    assert forward_nodes(helper.make_model(helper.make_graph(nodes, "g", [], []))) == {0, 1}
