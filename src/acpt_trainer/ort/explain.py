"""What a failed export means for the user: which operator or model part, and what would work."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from typing import Any

from torch import nn

from acpt_trainer.errors import GraphBuildError
from acpt_trainer.ort import place
from acpt_trainer.ort.place import Place

_UNSUPPORTED = re.compile(r"Exporting the operator '?(?P<op>[\w:.]+)'? to ONNX")
_UNSUPPORTED_MODE = re.compile(
    r"Unsupported: ONNX export of operator (?P<op>[\w:.]+)[,.]?(?P<why>[^\n]*)"
)
_NO_KERNEL = re.compile(
    r"Could not find an implementation for (?:the node )?(?P<op>[\w:./]+\(\d+\))"
)
_NO_GRADIENT = re.compile(r"gradient builder has not been registered: (?P<op>\S+)")
_SHAPES = re.compile(r"(?P<why>\[ShapeInferenceError\][^\n]*|ShapeInferenceError[^\n]*)")
_BOUNDS = re.compile(r"out of data bounds|Out of range value in index tensor")
_ENFORCED = re.compile(r"/onnxruntime_src/\S+:\d+ .*? was false\. ?(?P<why>[^\n]+)")
_NODE = re.compile(r"/_original_module/(?P<path>[\w./]+)/\w+")

WAY_OUT = (
    "train this model with strategy='no_acc' (PyTorch) or 'ds' (DeepSpeed ZeRO-1), "
    "or change the part named above"
)

_EXPERTS = (
    "call model.set_experts_implementation('batched_mm') first, which transformers has for graphs "
    "(it copies an expert's weights for each token that it gets, so mind the memory), or "
)


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error and all that it came from, causes and contexts, outermost first."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        current = waiting.pop(0)
        if current is not None and id(current) not in seen:
            seen.add(id(current))
            yield current
            waiting += [current.__cause__, current.__context__]


def out_of_bounds(text: str) -> bool:
    """Whether an engine's message says that an index is not one, which PyTorch refuses, too."""
    return bool(_BOUNDS.search(text))


def first_line(error: BaseException) -> str:
    """The line of an engine's message that says what happened."""
    return _cause(str(error))


def _place(error: Exception, model: nn.Module, failed_at: Place | None) -> Place:
    """The most exact place that the error or its causes tell of."""
    places = [getattr(e, "where", None) for e in chain(error)]
    told = [found for found in places if isinstance(found, Place)]
    if told or failed_at:
        return told[-1] if told else failed_at or Place()
    inner = list(chain(error))[-1]
    found = place.of_error(model, inner)
    node = _inferred(error)
    if found.module is None and (match := _NODE.search(node.name if node else str(error))):
        # ONNX Runtime names a node after the module that made it.
        path = match["path"].replace("/", ".")
        kind = next((type(m).__name__ for n, m in model.named_modules() if n == path), None)
        return Place(f"{path} ({kind})" if kind else path, found.source)
    return found if node is None else Place(found.module or type(model).__name__, found.source)


def _inferred(error: Exception) -> Any | None:
    """The node whose shapes were being inferred when an error was raised, if any were."""
    for raised in chain(error):
        frames = [frame for frame, _ in traceback.walk_tb(raised.__traceback__)]
        for frame in reversed(frames):
            node = frame.f_locals.get("node")
            inferring = frame.f_code.co_filename.endswith("symbolic_shape_infer.py")
            if inferring and hasattr(node, "op_type"):
                return node
    return None


def _cause_of(error: Exception) -> str:
    """What an engine's error says; those of its shape inference often say nothing."""
    node = _inferred(error)
    if node is None:
        return _cause(str(error))
    why = f": {type(error).__name__}: {_cause(str(error))}" if str(error).strip() else ""
    return f"ONNX Runtime cannot infer the shapes of the operator {node.op_type}{why}"


def _experts_at(model: nn.Module | str, where: Place | str) -> bool:
    """Whether a mixture of experts stopped at its experts, which can be computed otherwise."""
    config = getattr(model, "config", None)
    chosen = getattr(config, "_experts_implementation", None)
    return chosen not in (None, "batched_mm") and "Experts" in str(where)


def _cause(text: str) -> str:
    if match := _UNSUPPORTED.search(text):
        return f"the exporter has no ONNX form for the operator {match['op']}"
    if match := _UNSUPPORTED_MODE.search(text):
        # What follows asks the reader to file a request, which is of no use here.
        why = match["why"].partition("Please")[0].strip(" .,")
        return (
            f"the exporter cannot export the operator {match['op'].rstrip('.')}{why and ': ' + why}"
        )
    if match := _NO_GRADIENT.search(text):
        return f"ONNX Runtime has no gradient for the operator {match['op'].rstrip('.')}"
    if match := _NO_KERNEL.search(text):
        return f"ONNX Runtime has no kernel for {match['op'].strip()} in this precision"
    if match := _SHAPES.search(text):
        return f"ONNX Runtime finds the shapes of the graph inconsistent: {match['why'][:300]}"
    if out_of_bounds(text):
        return "an index is out of bounds: a label, a token's number or another"
    if match := _ENFORCED.search(text):
        return f"a check of ONNX Runtime's own fails: {match['why'].strip()[:300]}"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\b\w*(Error|Exception)\b\s*:", line)]
    refused = [line for line in lines if line.startswith("Unsupported:")]
    # A symbolic value error ends with a dump of the graph, other errors with their message.
    return (refused[:1] or (errors or lines or ["no message"])[-1:])[0][:400]


def explained(
    error: Exception,
    model: nn.Module | str,
    failed_at: Place | None = None,
    refusal: str | None = None,
) -> GraphBuildError:
    """Turns an engine's failure into one message that a user can act on.

    Args:
        error: What ORTModule or the exporter raised.
        model: The model, or its class's name.
        failed_at: Where the model was when its forward raised, if it did.
        refusal: Why we refused it, if we did.

    Returns:
        The error to raise; `error` is meant to be its cause.
    """
    ours = [e for e in chain(error) if isinstance(e, GraphBuildError)]
    cause = refusal or (str(ours[-1]) if ours else _cause_of(error))
    where: Place | str = "its arguments"
    name = model
    if not isinstance(model, str):
        name = type(model).__name__
        where = _place(error, model, failed_at)
    fix = (ours[-1].fix if ours else None) or WAY_OUT
    if _experts_at(model, where):
        fix = _EXPERTS + fix
    if out_of_bounds(str(error)):
        fix = "compare labels and token numbers with the number of classes and the vocabulary"
    return GraphBuildError(
        f"ONNX Runtime cannot train {name}: {cause}.\n"
        f"    where: {where}\n"
        f"    fix:   {fix}.\n"
        "    This step was not run; this package never falls back to PyTorch silently."
    )
