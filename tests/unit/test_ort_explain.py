"""What a failed export means for the user. The messages are those of torch 2.13 and ORT 1.19.2."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from torch import nn

from acpt_trainer.errors import AcptError, GraphBuildError
from acpt_trainer.ort.explain import WAY_OUT, explained
from acpt_trainer.ort.place import Place


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        (
            "Exporting the operator 'aten::linalg_svdvals' to ONNX opset version 17 is not "
            "supported",
            "the exporter has no ONNX form for the operator aten::linalg_svdvals",
        ),
        (
            "Exporting the operator aten::foo to ONNX opset version 17 is not supported",
            "the exporter has no ONNX form for the operator aten::foo",
        ),
        (
            "Unsupported: ONNX export of operator scaled_dot_product_attention, enable_gqa=True. "
            "Please feel free to request support or submit a pull request on PyTorch GitHub",
            "the exporter cannot export the operator scaled_dot_product_attention: enable_gqa=True",
        ),
        (
            "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for the "
            "node Gelu_3:Gelu(1)",
            "ONNX Runtime has no kernel for Gelu_3:Gelu(1) in this precision",
        ),
        (
            "/onnxruntime_src/onnxruntime/core/graph/graph_utils.cc:27 int GetIndex(bool) "
            "itr != end() was false. No such name\n",
            "a check of ONNX Runtime's own fails: No such name",
        ),
        ("boom", "boom"),
        ("ValueError: too hot\n\n", "ValueError: too hot"),
        ("first line\nKeyError: 'tea'\nin the end", "KeyError: 'tea'"),
        ("first line\nlast line", "last line"),
        ("", "no message"),
    ],
)
def test_explained_names_the_cause(message: str, cause: str) -> None:
    text = str(explained(RuntimeError(message), "Kettle"))
    assert text.startswith(f"ONNX Runtime cannot train Kettle: {cause}")


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        pytest.param(
            "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for "
            "Trilu(14) node with name '/Trilu'",
            "ONNX Runtime has no kernel for Trilu(14) in this precision.",
        ),
        pytest.param(
            "Unsupported: ONNX export of operator unique_dim. Please feel free to request "
            "support or submit a pull request on PyTorch GitHub: https://github.com/issues",
            "the exporter cannot export the operator unique_dim.\n",
        ),
        pytest.param(
            "Unsupported: ONNX export of embedding with scale_grad_by_freq=True for training "
            "mode. ONNX does not support scaling the gradients.  [Caused by the value 'w defined "
            "in (%x : Long(2)\n)' (type 'Tensor') in the TorchScript graph.]\n    Outputs:\n"
            "    )  (type 'Tensor')",
            "Unsupported: ONNX export of embedding with scale_grad_by_freq=True",
        ),
    ],
    ids=["no-kernel", "operator", "value"],
)
def test_explained_names_the_cause_alone(message: str, cause: str) -> None:
    text = str(explained(RuntimeError(message), "Kettle"))
    assert text.startswith(f"ONNX Runtime cannot train Kettle: {cause}")


def test_explained_has_three_parts_and_says_that_nothing_was_trained() -> None:
    error = explained(RuntimeError("boom"), "Kettle")
    assert isinstance(error, GraphBuildError)
    assert isinstance(error, AcptError)
    _, where, fix, last = str(error).splitlines()
    assert where == "    where: its arguments"
    assert fix == f"    fix:   {WAY_OUT}."
    assert "strategy='no_acc'" in fix
    assert last.strip() == (
        "This step was not run; this package never falls back to PyTorch silently."
    )


def test_explained_keeps_our_own_words() -> None:
    own = "the model uses the custom torch.autograd.Function tea.Boil\nRuntimeError: of its own"
    assert own in str(explained(GraphBuildError(own), "Kettle"))


def test_explained_shortens_a_long_message() -> None:
    text = str(explained(RuntimeError("x" * 5000), "Kettle"))
    assert "x" * 400 in text
    assert "x" * 401 not in text


class Pot(nn.Module):
    def forward(self) -> None:
        raise RuntimeError("too hot")


class Kettle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Identity(), Pot()])

    def forward(self) -> None:
        self.parts[1]()


def test_explained_points_at_the_module_and_line_that_raised() -> None:
    model = Kettle()
    with pytest.raises(RuntimeError) as caught:
        model()
    text = str(explained(caught.value, model))
    assert text.startswith("ONNX Runtime cannot train Kettle: too hot.\n")
    assert re.search(rf"where: parts\.1 \(Pot\), {re.escape(__file__)}:\d+ in forward\n", text)


def test_explained_points_at_what_the_engine_lost() -> None:
    told = Place("parts.1 (Pot)", "tea.py:3")
    text = str(explained(RuntimeError("lost"), Kettle(), told, "it boils over"))
    assert "cannot train Kettle: it boils over.\n    where: parts.1 (Pot), tea.py:3\n" in text


def test_explained_points_at_the_module_that_made_a_node() -> None:
    message = (
        "The gradient builder has not been registered: Det for node "
        "/_original_module/parts.1/pot/Det"
    )
    text = str(explained(RuntimeError(message), Kettle()))
    assert "ONNX Runtime has no gradient for the operator Det.\n    where: parts.1.pot" in text


@pytest.mark.parametrize("chosen", ["grouped_mm", "batched_mm", None])
def test_explained_names_the_experts_that_graphs_can_hold(chosen: str | None) -> None:
    model = nn.Linear(1, 1)
    model.config = SimpleNamespace(_experts_implementation=chosen)  # type: ignore[assignment]
    stopped = RuntimeError("Exporting the operator 'aten::histc' to ONNX is not supported")
    at_experts = Place("layers.0.mlp.experts (MixtralExperts)", "moe.py:1 in forward")
    way_out = "model.set_experts_implementation('batched_mm')"
    assert (way_out in str(explained(stopped, model, at_experts))) == (chosen == "grouped_mm")
    assert way_out not in str(explained(stopped, model, Place("layers.0.mlp", "a.py:1 in forward")))
