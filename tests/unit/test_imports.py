"""What importing and listing costs: neither torch nor an engine."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

import pytest

import acpt_trainer

Run = Callable[..., subprocess.CompletedProcess[str]]

HEAVY = ("torch", "onnxruntime", "transformers", "accelerate", "deepspeed", "onnx")
SECONDS = 0.3


@pytest.mark.parametrize(
    "statement",
    [
        "import acpt_trainer",
        "from acpt_trainer import ConfigurationError, Layer, Problem, register_strategy",
        "import acpt_trainer; acpt_trainer.available_strategies()",
        "from acpt_trainer import get_strategy; get_strategy('ort')",
        "from acpt_trainer import get_strategy; get_strategy('ds + ort').build()",
        "from acpt_trainer import get_strategy; get_strategy('ds_ort').problems()",
        "from acpt_trainer import get_strategy; get_strategy('ds_compile').problems()",
        "from acpt_trainer import reported_errors, raise_if_any; raise_if_any([])",
        "from acpt_trainer import peak_memory_mb; peak_memory_mb()",
    ],
)
def test_package_imports_no_engine(run_python: Run, statement: str) -> None:
    done = run_python(
        "-c", f"{statement}\nimport sys\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_unknown_name_imports_no_engine(run_python: Run) -> None:
    done = run_python(
        "-c",
        "import acpt_trainer, sys\n"
        "try: acpt_trainer.get_strategy('dss')\n"
        "except acpt_trainer.ConfigurationError: pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])",
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_import_is_quick(run_python: Run) -> None:
    def seconds() -> float:
        done = run_python("-X", "importtime", "-c", "import acpt_trainer")
        found = re.search(r"\|\s*(\d+)\s*\|\s*acpt_trainer$", done.stderr, re.MULTILINE)
        assert found, done.stderr
        return int(found[1]) / 1e6

    # The best of three: a busy machine makes one run slow, a heavy import makes all of them slow.
    assert min(seconds() for _ in range(3)) < SECONDS


def test_public_names_resolve() -> None:
    for name in acpt_trainer.__all__:
        assert getattr(acpt_trainer, name) is not None, name
    assert len(set(acpt_trainer.__all__)) == len(acpt_trainer.__all__)


def test_public_names_are_listed() -> None:
    assert dir(acpt_trainer) == sorted(acpt_trainer.__all__)
    assert {"AcceleratedTrainer", "get_strategy", "__version__"} <= set(dir(acpt_trainer))


def test_unknown_attribute_raises() -> None:
    with pytest.raises(AttributeError, match="'acpt_trainer' has no attribute 'ORTTrainer'"):
        _ = acpt_trainer.ORTTrainer
    assert not hasattr(acpt_trainer, "strategies_typo")
