"""Evidence read from a small training graph."""

from __future__ import annotations

import pytest

from acpt_trainer.ort.graph import GraphSummary, summarize

helper = pytest.importorskip("onnx.helper")
TensorProto = pytest.importorskip("onnx").TensorProto

MICROSOFT = "com.microsoft"


def model(*nodes: tuple[str, str, dict[str, str]]):  # type: ignore[no-untyped-def]
    """A graph of nodes in a row: type, domain, attributes."""
    made = [
        helper.make_node(kind, [f"x{i}"], [f"x{i + 1}"], domain=domain, **attributes)
        for i, (kind, domain, attributes) in enumerate(nodes)
    ]
    ends = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [1]) for i in (0, len(nodes))]
    return helper.make_model(helper.make_graph(made, "made_up", ends[:1], ends[1:]))


def test_summarize_counts_by_kind() -> None:
    summary = summarize(
        model(
            ("MatMul", "", {}),
            ("FusedMatMul", MICROSOFT, {}),
            ("BiasGelu", MICROSOFT, {}),
            ("FusedMatMul", MICROSOFT, {}),
            ("ATen", "org.pytorch.aten", {"operator": "embedding"}),
            ("ATen", "org.pytorch.aten", {"overload_name": "x", "operator": "argmax"}),
            ("ATen", "org.pytorch.aten", {"operator": "embedding"}),
            ("PythonOp", MICROSOFT, {}),
            ("PythonOpGrad", MICROSOFT, {}),
            ("Dropout", "", {}),
            ("DropoutGrad", MICROSOFT, {}),
            ("BiasDropout", MICROSOFT, {}),
        ),
        export_seconds=1.23456,
        build_seconds=2.0,
    )
    assert summary == GraphSummary(
        nodes=12,
        fused_ops={"BiasDropout": 1, "BiasGelu": 1, "DropoutGrad": 1, "FusedMatMul": 2},
        aten_ops={"argmax": 1, "embedding": 2},
        python_ops=2,
        dropout_ops=3,
        export_seconds=1.235,
        build_seconds=2.0,
    )
    assert list(summary.fused_ops) == sorted(summary.fused_ops)


def test_summarize_finds_nothing_in_a_plain_graph() -> None:
    assert summarize(model(("MatMul", "", {}), ("Gelu", "", {}))) == GraphSummary(nodes=2)


def test_summary_is_plain_data_for_a_report() -> None:
    assert summarize(model(("Dropout", "", {}))).to_dict() == {
        "nodes": 1,
        "fused_ops": {},
        "aten_ops": {},
        "python_ops": 0,
        "dropout_ops": 1,
        "after_graph": [],
        "export_seconds": 0.0,
        "build_seconds": 0.0,
        "weights_mb": 0.0,
        "activations_mb": 0.0,
        "activations_unsized": 0,
    }
