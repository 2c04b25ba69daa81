"""Lays out what a job needs in one folder: job.yml, the code with its data, the image's recipe."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import acpt_trainer
from acpt_trainer import Problem
from homer.azure.job import CODE, ENVIRONMENT, JobSpec

EXAMPLE = Path(__file__).resolve().parents[2]
DATA = EXAMPLE / "data"
PACKAGE = Path(acpt_trainer.__file__).resolve().parent
CHECKOUT = PACKAGE.parents[1]
"""Holds the versions that the image gets: those that the package is tested with."""
TEXTS = ("training_raw.txt", "validation_raw.txt")
_JOB = "job.yml"
_SKIPPED = shutil.ignore_patterns("__pycache__", "*.pyc")


def data_problems() -> list[Problem]:
    """Whether the texts are prepared, and the versions at hand."""
    found = []
    for name in TEXTS:
        file = DATA / name
        if not file.is_file() or file.stat().st_size == 0:
            what = "the data are not prepared: there is no text in this file"
            found.append(Problem(what, str(file), "run prepare_data.py first"))
    missing = [name for name in ("pyproject.toml", "constraints.txt") if not _versions(name)]
    if missing:
        what = f"{' and '.join(missing)} of the package are not at hand: the image is made by them"
        fix = "install the package from a checkout, with pip install -e"
        found.append(Problem(what, str(CHECKOUT), fix))
    return found


def _versions(name: str) -> bool:
    return (CHECKOUT / name).is_file()


def stage(spec: JobSpec, folder: Path) -> Path:
    """Writes everything that is uploaded.

    The package travels with the code, so that what runs is what is here, and an image is built
    again only when versions change.

    Args:
        spec: The job.
        folder: Where to write; what was there from an earlier time is replaced.

    Returns:
        The YAML file.
    """
    import yaml

    for part in (CODE, ENVIRONMENT):
        shutil.rmtree(folder / part, ignore_errors=True)
    _stage_code(folder / CODE)
    _stage_environment(spec, folder / ENVIRONMENT)
    file = folder / _JOB
    content = yaml.safe_dump(spec.to_yaml(), sort_keys=False, width=1000)
    file.write_text(content, encoding="utf-8")
    return file


def _stage_code(folder: Path) -> None:
    (folder / "homer").mkdir(parents=True)
    (folder / "data").mkdir()
    shutil.copy(EXAMPLE / "finetune.py", folder)
    for module in (EXAMPLE / "homer").glob("*.py"):
        shutil.copy(module, folder / "homer")
    for name in TEXTS:
        shutil.copy(DATA / name, folder / "data")
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=_SKIPPED)


def _stage_environment(spec: JobSpec, folder: Path) -> None:
    folder.mkdir(parents=True)
    shutil.copy(EXAMPLE / "environment" / "Dockerfile", folder)
    shutil.copy(CHECKOUT / "constraints.txt", folder)
    text = "".join(f"{line}\n" for line in requirements(spec))
    (folder / "requirements.txt").write_text(text, encoding="utf-8")


def requirements(spec: JobSpec) -> list[str]:
    """What the job's image installs: the package's own requirements, and its extras."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = ["example", "deepspeed", *(["ort-gpu"] if spec.uses_ort else [])]
    return [*project["dependencies"], *(r for e in extras for r in _extra(project, e))]


def _extra(project: dict[str, dict[str, list[str]]], name: str) -> list[str]:
    return project["optional-dependencies"][name]
