"""What a failed export means for the user: which operator or model part, and what would work."""

from __future__ import annotations

import re
import traceback
from types import TracebackType

from acpt_trainer.errors import GraphBuildError

_UNSUPPORTED = re.compile(r"Exporting the operator '?(?P<op>[\w:.]+)'? to ONNX")
_UNSUPPORTED_MODE = re.compile(
    r"Unsupported: ONNX export of operator (?P<op>[\w:.]+)[,.]?(?P<why>[^\n]*)"
)
_NO_KERNEL = re.compile(
    r"Could not find an implementation for (?:the node )?(?P<op>[\w:./]+\(\d+\))"
)
_ENGINE_FILES = (
    "onnxruntime",
    "torch/onnx",
    "torch/jit",
    "torch/nn/modules/module.py",
    "contextlib",
)

WAY_OUT = (
    "train this model with strategy='no_acc' (PyTorch) or 'ds' (DeepSpeed ZeRO-1), "
    "or change the part named above"
)


def _model_line(text: str, tb: TracebackType | None) -> str | None:
    """The innermost source line that belongs to a model rather than to the engine."""
    frames = [(f.filename, f.lineno or 0, f.name) for f in traceback.extract_tb(tb)]
    # ORTModule keeps the exporter's own stack trace as text in its message.
    for match in re.finditer(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<name>\S+)', text):
        frames.append((match["file"], int(match["line"]), match["name"]))
    for match in re.finditer(r"(?P<file>/\S+\.py)\((?P<line>\d+)\): (?P<name>\S+)", text):
        # TorchScript's own form lists the innermost frame first.
        if not any(part in match["file"] for part in (*_ENGINE_FILES, "acpt_trainer")):
            return f"{match['file']}:{match['line']} in {match['name']}"
    for file, line, name in reversed(frames):
        if not any(part in file for part in (*_ENGINE_FILES, "acpt_trainer", "torch/")):
            return f"{file}:{line} in {name}"
    return None


def _cause(text: str) -> str:
    if match := _UNSUPPORTED.search(text):
        return f"the exporter has no ONNX form for the operator {match['op']}"
    if match := _UNSUPPORTED_MODE.search(text):
        # What follows asks the reader to file a request, which is of no use here.
        why = match["why"].partition("Please")[0].strip(" .,")
        return (
            f"the exporter cannot export the operator {match['op'].rstrip('.')}{why and ': ' + why}"
        )
    if match := _NO_KERNEL.search(text):
        return f"ONNX Runtime has no kernel for {match['op'].strip()} in this precision"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"\b\w*(Error|Exception)\b\s*:", line)]
    refused = [line for line in lines if line.startswith("Unsupported:")]
    # A symbolic value error ends with a dump of the graph, other errors with their message.
    return (refused[:1] or (errors or lines or ["no message"])[-1:])[0][:400]


def explained(error: Exception, model_name: str) -> GraphBuildError:
    """Turns an engine's failure into one message that a user can act on.

    Args:
        error: What ORTModule or the exporter raised.
        model_name: Class name of the model.

    Returns:
        The error to raise; `error` is meant to be its cause.
    """
    text = str(error)
    cause = text if isinstance(error, GraphBuildError) else _cause(text)
    where = _model_line(text, error.__traceback__)
    return GraphBuildError(
        f"ONNX Runtime cannot train {model_name}: {cause}.\n"
        f"    where: {where or 'not told by the exporter'}\n"
        f"    fix:   {WAY_OUT}.\n"
        "    This step was not run; this package never falls back to PyTorch silently."
    )
