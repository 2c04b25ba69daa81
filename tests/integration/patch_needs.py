"""What breaks when a patch or a symbolic is off. Run as a script, it tries each and tells.

A patch needs an entry in `PATCHES_NEEDED`, a symbolic in `SYMBOLICS_NEEDED`, a gradient in
`GRADIENTS_NEEDED`; the scenarios are in the `*_needs.py` beside it. Each is tried twice in a
process of its own (a fork, so that it costs little): with everything on it must hold, with that
one off it must fail.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for the package `models`

from engine_needs import ENGINE_NEEDED
from image_needs import IMAGES_NEEDED
from model_needs import DRAWS_NEEDED, MODELS_NEEDED
from operator_needs import OPERATORS_NEEDED
from reading_needs import READING_NEEDED
from symbolic_needs import EXPRESSIONS_NEEDED, GRADIENTS_NEEDED

from acpt_trainer.ort import patches

HELD = "held"


@dataclass(frozen=True)
class Need:
    """Holds with every patch on; without the patch it fails, and `symptom` is in the failure."""

    scenario: Callable[[], None]
    symptom: str


PATCHES_NEEDED: dict[str, Need] = {
    name: Need(*need) for name, need in {**ENGINE_NEEDED, **MODELS_NEEDED, **READING_NEEDED}.items()
}

# By the operator's name without its domain.
SYMBOLICS_NEEDED: dict[str, Callable[[], None]] = {
    **EXPRESSIONS_NEEDED,
    **IMAGES_NEEDED,
    **DRAWS_NEEDED,
    **OPERATORS_NEEDED,
}

# --- trying them ---------------------------------------------------------------------------------


def attempt(scenario: Callable[[], None]) -> str:
    """Runs a scenario in a fork; returns `HELD` or what went wrong."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(120)
        try:
            scenario()
            outcome = HELD
        except BaseException as error:
            outcome = "".join(traceback.format_exception(error))[-20_000:]
        os.write(writer, outcome.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        outcome = pipe.read()
    _, status = os.waitpid(child, 0)
    return outcome or f"the process died of signal {os.WTERMSIG(status)}"


def without_patch(name: str, scenario: Callable[[], None]) -> Callable[[], None]:
    def tried() -> None:
        patches.PATCHES = tuple(p for p in patches.PATCHES if p.name != name)
        scenario()

    return tried


def without_symbolic(name: str, scenario: Callable[[], None]) -> Callable[[], None]:
    """Upstream's symbolic instead of ours, or none."""
    from acpt_trainer.ort import registration

    ours = registration._symbolics

    def of_this_name(symbolics: dict[str, Any], yes: bool) -> dict[str, Any]:
        return {k: fn for k, fn in symbolics.items() if (k.split("::")[-1] == name) is yes}

    def tried() -> None:
        registration._symbolics = lambda upstream: (
            of_this_name(ours(upstream), False) | of_this_name(upstream, True)
        )
        scenario()

    return tried


def without_gradient(key: str, scenario: Callable[[], None]) -> Callable[[], None]:
    from onnxruntime.training.ortmodule._custom_gradient_registry import CustomGradientRegistry

    register_all = CustomGradientRegistry.register_all

    def tried() -> None:
        def register_rest() -> None:
            CustomGradientRegistry._GRADIENTS.pop(key)
            register_all()

        CustomGradientRegistry.register_all = register_rest
        scenario()

    return tried


def what_is_ours() -> dict[str, list[str]]:
    """The names of the symbolics and gradients that this package registers or takes out."""
    from onnxruntime.training.ortmodule import (
        _custom_gradient_registry,
        _custom_op_symbolic_registry,
    )

    from acpt_trainer.ort import registration

    symbolics = _custom_op_symbolic_registry.CustomOpSymbolicRegistry
    gradients = _custom_gradient_registry.CustomGradientRegistry
    upstream = dict(symbolics._SYMBOLICS)
    known = set(gradients._GRADIENTS)
    with registration.registered():
        held = symbolics._SYMBOLICS
        names = {k for k in {*held, *upstream} if held.get(k) is not upstream.get(k)}
        new = set(gradients._GRADIENTS) - known
    return {"symbolics": sorted({n.split("::")[-1] for n in names}), "gradients": sorted(new)}


def main() -> None:
    """Prints one line of JSON: by kind and name, what happened with it on and with it off.

    With the argument `ours`, only the names of our symbolics and gradients.
    """
    if sys.argv[1:] == ["ours"]:
        patches.start()
        print(json.dumps(what_is_ours()))
        return
    # A machine without a compiler: what needs an extension is refused, and nothing is built.
    os.environ["CXX"] = "/nonexistent"
    tried: dict[str, Any] = {"patches": {}, "symbolics": {}, "gradients": {}}
    for name, need in PATCHES_NEEDED.items():
        off = attempt(without_patch(name, need.scenario))
        tried["patches"][name] = [off]
    patches.start()  # from here on each fork has ONNX Runtime imported
    for name, need in PATCHES_NEEDED.items():
        tried["patches"][name].insert(0, attempt(need.scenario))
    tried["ours"] = what_is_ours()
    for kind, table, without in (
        ("symbolics", SYMBOLICS_NEEDED, without_symbolic),
        ("gradients", GRADIENTS_NEEDED, without_gradient),
    ):
        for name, scenario in table.items():
            tried[kind][name] = [attempt(scenario), attempt(without(name, scenario))]
    print(json.dumps(tried))


if __name__ == "__main__":
    main()
