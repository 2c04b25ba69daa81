"""What a small training graph holds in memory, counted by hand."""

from __future__ import annotations

from typing import Any

import pytest

helper = pytest.importorskip("onnx.helper")
from acpt_trainer.ort.backward import kept  # noqa: E402
from acpt_trainer.ort.memory import Held, held  # noqa: E402

FLOAT, INT64, BOOL = 1, 7, 9
WEIGHT = "_original_module.model.w"
NODES = (
    ("MatMul", ["tensors_0", WEIGHT], ["product"]),
    ("Reshape", ["product", "rows"], ["flat"]),
    ("Tanh", ["flat"], ["out"]),
    ("Greater", ["product", WEIGHT], ["mask"]),
    ("Abs", ["mask"], ["passing"]),
    ("Sub", ["out", "passing"], ["loss"]),
    ("YieldOp", ["loss"], ["loss_grad"]),
    ("Shape", ["out"], ["sizes"]),  # looks at no number
    ("TanhGrad", ["loss_grad", "flat"], ["back"]),
    ("Where", ["mask", "back", "product"], ["gradient"]),
)


def value(name: str, kind: int, *shape: int | str | None) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def graph(*sized: Any) -> Any:
    made = helper.make_graph(
        [helper.make_node(kind, given, makes) for kind, given, makes in NODES],
        "made_up",
        [value("tensors_0", FLOAT, "batch", "length", 3), value(WEIGHT, FLOAT, 3, 5)],
        [value("gradient", FLOAT, 3, 5)],
        [helper.make_tensor("rows", INT64, [2], [-1, 5])],
        value_info=sized,
    )
    return helper.make_model(made)


PRODUCT = value("product", FLOAT, "batch", "length", 5)
FLAT = value("flat", FLOAT, "batch*length", 5)


def test_kept_is_what_the_backward_half_reads_and_a_view_is_what_it_is_of() -> None:
    assert kept(graph()) == ["product", "mask"]


def test_held_counts_with_the_sizes_of_the_batch() -> None:
    mask = value("mask", BOOL, "batch*length + 1", 5)
    found = held(graph(PRODUCT, FLAT, mask), [(2, 4, 3)])
    assert found == Held((3 * 5 * 4 + 2 * 8) / 1e6, (2 * 4 * 5 * 4 + 9 * 5) / 1e6, 0)


@pytest.mark.parametrize("size", ["unk__1", "a.b", "", None, "length/3"])
def test_held_says_what_it_cannot_count(size: str | None) -> None:
    found = held(graph(PRODUCT, value("mask", BOOL, size, 5)), [(2, 4, 3)])
    assert found.activations_mb == 2 * 4 * 5 * 4 / 1e6
    assert found.activations_unsized == 1


def test_held_counts_the_graph_that_runs_where_it_is_known() -> None:
    running = graph(PRODUCT, value("mask", BOOL, 1))
    for node in running.graph.node:
        if node.op_type == "Where":
            node.input[:] = ["mask", "back", "back"]
        if node.op_type == "TanhGrad":
            node.input[:] = ["loss_grad", "loss_grad"]
    assert held(graph(), [(2, 4, 3)], running) == Held(76 / 1e6, 1 / 1e6, 0)
