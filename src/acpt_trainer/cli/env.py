"""`acpt-trainer env`: what a bug report needs to say about the machine and what is installed."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

import typer

from acpt_trainer.cli.common import answer_alone
from acpt_trainer.errors import raise_if_any
from acpt_trainer.measure.machine import cpu
from acpt_trainer.registry import get_strategy
from acpt_trainer.requirements import import_deepspeed

PACKAGES = (
    "acpt-trainer", "torch", "transformers", "accelerate", "deepspeed", "onnx", "onnxruntime",
    "onnxruntime-gpu", "onnxruntime-training", "onnxruntime-training-cpu", "peft", "datasets",
    "tokenizers", "safetensors", "numpy", "ninja",
)  # fmt: skip
VARIABLES = (
    "ACPT_TRAINER_", "ORTMODULE_", "ACCELERATE_", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CXX",
    "WORLD_SIZE", "RANK", "LOCAL_RANK", "DS_ACCELERATOR", "XDG_CACHE_HOME",
)  # fmt: skip
"""Names, and beginnings of names where they end in an underscore."""

_SECRET = ("TOKEN", "KEY", "SECRET", "PASSWORD", "CREDENTIAL")


def packages() -> dict[str, str | None]:
    """Versions of Python and of every package that may take part; None for what is not here."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def devices() -> dict[str, Any]:
    """What torch trains on here."""
    import torch

    count = torch.cuda.device_count()
    return {
        "cuda": [torch.cuda.get_device_name(i) for i in range(count)],
        "torch_cuda": torch.version.cuda,
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch_threads": torch.get_num_threads(),
    }


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment variables that change how training runs; what may be secret is not shown."""
    shown = {}
    for name, value in sorted(environment.items()):
        if any(name == v or (v.endswith("_") and name.startswith(v)) for v in VARIABLES):
            shown[name] = "(set, not shown)" if any(s in name for s in _SECRET) else value
    return shown


def onnxruntime_training() -> dict[str, Any]:
    """Providers, patches and extensions, or what `ort` lacks to start."""
    from acpt_trainer.strategies import ort_inspect

    missing = [p.what for p in get_strategy("ort").problems()]
    if missing:
        return {"missing": missing}
    try:
        providers = ort_inspect.providers()
    except (ImportError, OSError) as error:  # a library that its binary needs is not here
        return {"missing": [f"ONNX Runtime cannot be loaded: {error}"]}
    return {
        "missing": [],
        "providers": providers,
        "patches": ort_inspect.patch_states(),
        "extensions": ort_inspect.extensions(),
    }


def deepspeed_operators() -> dict[str, bool]:
    """DeepSpeed's own operators, and whether each can be built and run here."""
    if any(get_strategy("ds").problems()):
        return {}
    with answer_alone():  # it logs to standard output
        try:
            import_deepspeed()
            from deepspeed.ops.op_builder.all_ops import ALL_OPS

            found = {name: bool(op.is_compatible(verbose=False)) for name, op in ALL_OPS.items()}
        except Exception:  # a report of what is broken must not break on it
            return {}
    return {name: can for name, can in sorted(found.items()) if "not_implemented" not in name}


def gathered() -> dict[str, Any]:
    """Everything, as plain data."""
    from acpt_trainer.strategies import ort_inspect

    environment = variables(os.environ)  # first: engines set some of them
    found = packages()
    return {
        "packages": found,
        "platform": platform.platform(),
        "cpu": cpu(),
        "devices": devices(),
        "compiler": ort_inspect.toolchain(),
        "deepspeed": found["deepspeed"] is not None,
        "deepspeed_operators": deepspeed_operators(),
        "ort": onnxruntime_training(),
        "environment": environment,
    }


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"platform      {found['platform']}"
    yield "packages      " + ", ".join(f"{k} {v}" for k, v in found["packages"].items() if v)
    yield "not here      " + (", ".join(k for k, v in found["packages"].items() if not v) or "-")
    processor, devices = found["cpu"], found["devices"]
    yield f"cpu           {processor['model']}, {processor['cores']} cores for this process"
    if processor["features"] is None:
        yield "              instruction sets not known on this system"
    else:
        yield "              " + ", ".join(
            f"{k} {'yes' if v else 'no'}" for k, v in processor["features"].items()
        )
    yield f"torch         {devices['torch_cpu_capability']}, {devices['torch_threads']} threads"
    yield "cuda          " + (", ".join(devices["cuda"]) or "no device")
    compiler = found["compiler"]
    yield f"compiler      {compiler['command'] or 'none'} ({compiler['version'] or 'no version'})"
    yield from (f"              missing: {need}" for need in compiler["missing"])
    ort = found["ort"]
    yield "onnxruntime   " + ("; ".join(ort["missing"]) or ", ".join(ort["providers"]))
    yield from _extension_lines(ort.get("extensions", ()))
    yield "deepspeed     " + ("installed" if found["deepspeed"] else "not installed")
    if found["deepspeed_operators"]:
        operators = found["deepspeed_operators"].items()
        can = ", ".join(f"{name} {'yes' if here else 'no'}" for name, here in operators)
        yield f"              operators: {can}"
    yield "environment   " + (", ".join(f"{k}={v}" for k, v in found["environment"].items()) or "-")
    if ort.get("patches"):
        yield "patches       (+ needed by the versions installed here, - not)"
    for patch in ort.get("patches", ()):
        yield f"  {'+' if patch['needed'] else '-'} {patch['name']} ({patch['scope']})"
        yield f"      {patch['why']}"


def _extension_lines(extensions: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What is built on demand, each time it is built, and whether this process uses it."""
    title = "extensions"
    for extension in extensions:
        built = [
            f"built: torch {b['torch']}, onnxruntime {b['onnxruntime']}, {b['compiler']}"
            if b["intact"]
            else f"torn, to be built again: {b['folder']}"
            for b in extension["built"]
        ] or ["not built; a graph that needs it builds it"]
        state = "loaded" if extension["loaded"] else "not loaded"
        yield f"{title:<14}{extension['name']} ({state})"
        yield from (f"              {line}" for line in built)
        title = ""


def _check_lines(outcome: Mapping[str, list[str]]) -> Iterator[str]:
    yield "check         " + ("; ".join(outcome["different"]) or "a small step is as PyTorch's")
    yield "              " + (
        f"never tested: {', '.join(outcome['untested'])}"
        if outcome["untested"]
        else "these versions are tested"
    )


def show_environment(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Train a small step and compare it with PyTorch's.")
    ] = False,
) -> None:
    """Show versions, devices, compiler, environment and patches, as a bug report needs them.

    Example: acpt-trainer env --json --check
    """
    from acpt_trainer.strategies import ort_inspect

    if check:
        raise_if_any(get_strategy("ort").problems(), "Cannot check 'ort'")
    found = gathered()
    if check:
        found["check"] = ort_inspect.self_check()
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        for line in _lines(found):
            typer.echo(line)
        for line in _check_lines(found["check"]) if check else ():
            typer.echo(line)
    if check:
        raise_if_any(ort_inspect.self_check_problems(found["check"]), "Cannot rely on 'ort'")
