"""What README and docs say is true: commands run, links lead somewhere, lists are complete."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from warm_python import WarmPython

import acpt_trainer
from acpt_trainer import available_strategies
from acpt_trainer.ort.patches import PATCHES

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
EXAMPLE = ROOT / "examples" / "homer_gpt2"
BLOCK = re.compile(r"<!-- run -->\s*```(?P<language>\w+)\n(?P<code>.*?)```", re.DOTALL)


def runnable(language: str) -> list[pytest.param]:
    return [
        pytest.param(block["code"], id=f"{page.relative_to(ROOT)}-{number}")
        for page in PAGES
        for number, block in enumerate(BLOCK.finditer(page.read_text(encoding="utf-8")))
        if block["language"] == language
    ]


def environment(home: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("HOMER_CACHE", "WORLD_SIZE", "RANK")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def warm_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmPython]:
    """Runs the blocks of Python without importing the libraries for each."""
    made = WarmPython(environment(tmp_path_factory.mktemp("hf")))
    yield made
    made.stop()


def test_readme_has_blocks_to_run() -> None:
    assert len([p for p in runnable("python") if p.id.startswith("README")]) >= 3
    assert len([p for p in runnable("bash") if p.id.startswith("README")]) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("code", runnable("python"))
def test_python_block_runs(code: str, warm_python: WarmPython, tmp_path: Path) -> None:
    done = warm_python(["-c", code], cwd=tmp_path, env=environment(tmp_path / "hf"))
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("code", runnable("bash"))
def test_bash_block_runs_in_the_example(code: str, tmp_path: Path) -> None:
    folder = tmp_path / "homer_gpt2"
    shutil.copytree(
        EXAMPLE, folder, ignore=shutil.ignore_patterns("data", "outputs", "__pycache__")
    )
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code], cwd=folder, env=environment(tmp_path / "hf"),
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]


@pytest.mark.parametrize("target", ["demo", "test", "lint", "help"])
def test_make_target_exists(target: str) -> None:
    done = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"make {target}" in (ROOT / "README.md").read_text() or target in ("lint", "help")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://|mailto:|#)([^)#\s]+)", text):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_patch_table_is_the_list_of_patches() -> None:
    pages = [p for p in PAGES if all(patch.name in p.read_text() for patch in PATCHES)]
    assert pages, "one page under docs/concepts lists every patch by name"
    rows = [line for line in pages[0].read_text().splitlines() if line.startswith("| `")]
    assert {row.split("`")[1] for row in rows} >= {patch.name for patch in PATCHES}


def test_reference_has_every_public_name() -> None:
    text = "\n".join(p.read_text() for p in ROOT.glob("docs/reference/*.md"))
    missing = [name for name in acpt_trainer.__all__ if f"`{name}" not in text]
    assert not missing


def test_readme_has_every_strategy() -> None:
    text = (ROOT / "README.md").read_text()
    for name in ("no_acc", "ort", "ds", "ds_ort"):
        assert name in available_strategies()
        assert f"`{name}`" in text


def test_changelog_has_this_version() -> None:
    assert f"[{acpt_trainer.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
