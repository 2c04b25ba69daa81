"""What the example computes and writes, on numbers that can be checked by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from homer.blocks import pack
from homer.results import histories, perplexity, plot_losses, write_metrics

IGNORED = -100
"""The label that no loss counts."""


# --- pack ----------------------------------------------------------------------------------------


def test_pack_joins_lines_and_cuts_blocks() -> None:
    blocks = pack({"input_ids": [[1, 2, 3], [4], [], [5, 6, 7]]}, 3)
    assert blocks["input_ids"] == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("block_size", [2, 3, 5, 7])
def test_pack_labels_are_the_tokens_that_are_predicted(block_size: int) -> None:
    blocks = pack({"input_ids": [list(range(20))]}, block_size)
    assert len(blocks["labels"]) == len(blocks["input_ids"]) == 20 // block_size
    for ids, labels in zip(blocks["input_ids"], blocks["labels"], strict=True):
        assert len(labels) == len(ids) == block_size
        assert labels[1:] == ids[1:]
        assert labels[0] in (ids[0], IGNORED)


def test_pack_labels_are_no_view_of_the_tokens() -> None:
    blocks = pack({"input_ids": [[1, 2]]}, 2)
    blocks["labels"][0][1] = IGNORED
    assert blocks["input_ids"] == [[1, 2]]


@pytest.mark.parametrize("tokens", [[], [[]], [[1, 2]]])
def test_pack_of_too_little_is_empty(tokens: list[list[int]]) -> None:
    assert pack({"input_ids": tokens}, 3) == {"input_ids": [], "labels": []}


# --- histories and perplexity --------------------------------------------------------------------


def test_histories_separates_training_from_evaluation() -> None:
    log: list[dict[str, Any]] = [
        {"step": 1, "loss": 3.0, "learning_rate": 0.1},
        {"step": 2, "eval_loss": 2.5},
        {"step": 2, "loss": 2.0},
        {"step": 2, "train_loss": 2.5, "train_runtime": 1.0},
    ]
    assert histories(log) == ([[1, 3.0], [2, 2.0]], [[2, 2.5]])
    assert histories([]) == ([], [])


def test_perplexity_is_the_exponential() -> None:
    assert perplexity(0.0) == 1.0
    # A model that knows nothing chooses among all entries.
    assert perplexity(math.log(300)) == pytest.approx(300)
    assert perplexity(1000.0) == math.inf
    assert math.isnan(perplexity(math.nan)) or perplexity(math.nan) == math.inf


# --- metrics.json --------------------------------------------------------------------------------


def test_write_metrics_is_strict_json(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.json"
    metrics = {
        "loss": math.nan,
        "perplexity": math.inf,
        "history": [[1, -math.inf], (2, 0.5)],
        "nested": {"speed": math.nan, "steps": 3, 4: "key"},
        "folder": tmp_path,
        "none": None,
        "flag": True,
    }
    write_metrics(metrics, path)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    assert json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse) == {
        "loss": None,
        "perplexity": None,
        "history": [[1, None], [2, 0.5]],
        "nested": {"speed": None, "steps": 3, "4": "key"},
        "folder": str(tmp_path),
        "none": None,
        "flag": True,
    }
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]


def test_write_metrics_keeps_the_old_file_if_it_fails(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    write_metrics({"steps": 1}, path)

    class Unprintable:
        def __str__(self) -> str:
            raise RuntimeError("no words")

    with pytest.raises(RuntimeError, match="no words"):
        write_metrics({"steps": 2, "odd": Unprintable()}, path)
    assert json.loads(path.read_text()) == {"steps": 1}


# --- loss.png ------------------------------------------------------------------------------------


def drawn(path: Path) -> Any:
    from matplotlib.image import imread

    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    return imread(path)


def test_plot_losses_draws_every_run(tmp_path: Path) -> None:
    curve = ([[1, 3.0], [2, 2.0], [3, 1.5]], [[3, 1.8]])
    shifted = ([[1, 3.5], [2, 2.5], [3, 2.0]], [[3, 2.3]])
    one, two = tmp_path / "one.png", tmp_path / "two.png"
    plot_losses({"no_acc": curve}, one, "a title")
    plot_losses({"no_acc": curve, "ort": shifted}, two, "a title")
    assert drawn(one).shape == drawn(two).shape
    assert (drawn(one) != drawn(two)).any()


def test_plot_losses_without_evaluation(tmp_path: Path) -> None:
    path = tmp_path / "loss.png"
    plot_losses({"no_acc": ([[1, 3.0]], [])}, path, "one step")
    assert drawn(path).ndim == 3


def test_plot_losses_of_a_run_that_logged_nothing(tmp_path: Path) -> None:
    """`--logging_steps` beyond `--max_steps` and a resumed run leave no training loss to draw."""
    path = tmp_path / "loss.png"
    plot_losses({"no_acc": ([], [[3, 1.8]])}, path, "no training loss")
    assert drawn(path).ndim == 3
