"""Where in a model something happened: the module's path and the line of its source."""

from __future__ import annotations

import functools
import importlib
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

from torch import nn

from acpt_trainer.ort.mends import set_attribute

# Lines of these are the engine's, not a model's.
_ENGINE = re.compile(r"[/\\](onnxruntime|torch|sympy|acpt_trainer[/\\]ort)[/\\]|contextlib\.py$|^<")


@dataclass(frozen=True)
class Place:
    """A place in a model.

    Attributes:
        module: Path of the innermost module that was running, with its class; None outside any.
        source: `file:line in function` of the innermost line that is not the engine's.
    """

    module: str | None = None
    source: str | None = None

    def __str__(self) -> str:
        return ", ".join(part for part in (self.module, self.source) if part) or "not told"


def here(model: nn.Module) -> Place:
    """The place that is running now."""
    return _of(model, _callers(sys._getframe(1)))


def of_error(model: nn.Module, error: BaseException) -> Place:
    """The place that raised an error."""
    frames = [(tb.tb_frame, tb.tb_lineno) for tb in _tracebacks(error.__traceback__)]
    return _of(model, reversed(frames))


def owner(model: nn.Module, name: str) -> Place:
    """The module that an attribute, a parameter or a buffer belongs to.

    Args:
        model: The model.
        name: Its name, from the model on.
    """
    path = name.rpartition(".")[0]
    kind = type(model.get_submodule(path)).__name__
    return Place(f"{path} ({kind})" if path else kind)


def model_frame() -> FrameType | None:
    """The innermost running frame that is not the engine's."""
    callers = _callers(sys._getframe(1))
    return next((f for f, _ in callers if not _ENGINE.search(f.f_code.co_filename)), None)


def runs_in(file: str) -> bool:
    """Whether the model's running line called the engine's file whose path ends so."""
    for frame, _ in _callers(sys._getframe(1)):
        name = frame.f_code.co_filename.replace("\\", "/")
        if name.endswith(file) or not _ENGINE.search(name):
            return name.endswith(file)
    return False


def of_node(node: Any) -> Place:
    """The place that made a node of the traced graph, as the tracer wrote it down."""
    # `package.Class::name/package.Class::name/...`, outermost first, without the first two: ours.
    scopes = [scope.rpartition("::") for scope in node.scopeName().split("/")][2:]
    path: list[str] = []
    for _, _, name in scopes:
        if path and name.startswith(f"{path[-1]}."):  # a part of a Sequential has its name twice
            path.pop()
        path.append(name)
    joined = re.sub(r"^model\.(?=\d)", "", ".".join(path))  # `Call.model`, where it is a Sequential
    module = f"{joined} ({scopes[-1][0].rpartition('.')[2]})" if joined else None
    lines = re.finditer(r"(?P<file>\S+\.py)\((?P<line>\d+)\): (?P<name>\S+)", node.sourceRange())
    for found in lines:
        if not _ENGINE.search(found["file"]):
            return Place(module, f"{found['file']}:{found['line']} in {found['name']}")
    return Place(module)


def name_nodes(stack: ExitStack) -> None:
    """Has the exporter's errors about a node tell its place."""
    utils = importlib.import_module("torch.onnx._internal.torchscript_exporter.utils")
    export = utils._run_symbolic_function

    @functools.wraps(export)
    def run_symbolic_function(*args: Any, **kwargs: Any) -> Any:
        try:
            return export(*args, **kwargs)
        except Exception as error:
            if not hasattr(error, "where"):
                node = next(a for a in args if type(a).__name__ == "Node")
                error.where = of_node(node)  # type: ignore[attr-defined]
            raise

    set_attribute(stack, utils, "_run_symbolic_function", run_symbolic_function)


def _of(model: nn.Module, frames: Iterable[tuple[FrameType, int]]) -> Place:
    names = {id(m): name for name, m in model.named_modules()}
    module = source = None
    for frame, line in frames:
        code = frame.f_code
        if source is None and not _ENGINE.search(code.co_filename):
            source = f"{code.co_filename}:{line} in {code.co_name}"
        running = frame.f_locals.get("self")
        if module is None and isinstance(running, nn.Module) and id(running) in names:
            kind = type(running).__name__
            name = names[id(running)]
            module = f"{name} ({kind})" if name else kind
        if module and source:
            break
    return Place(module, source)


def _callers(frame: FrameType | None) -> Iterator[tuple[FrameType, int]]:
    while frame is not None:
        yield frame, frame.f_lineno
        frame = frame.f_back


def _tracebacks(tb: TracebackType | None) -> Iterator[TracebackType]:
    while tb is not None:
        yield tb
        tb = tb.tb_next
