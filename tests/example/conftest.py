"""Makes the modules of the example importable, as they are when its scripts run; fixtures."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import sleep
from unittest import mock

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "homer_gpt2"

for folder in (EXAMPLE / "serving", EXAMPLE):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from azure_runs import Emulated, make_emulated  # noqa: E402  (needs the path above)
from deploy_runs import (  # noqa: E402
    AtOnce,
    Deploys,
    interrupt_this_process,
    register,
    serving_folder,
)
from finetune_runs import Runs, Workspace, make_workspace  # noqa: E402
from homer.azure.emulator import Emulator  # noqa: E402
from submit_runs import Submit  # noqa: E402


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A short prepared text, a small tokenizer and the config of a tiny model."""
    return make_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="session")
def runs(workspace: Workspace) -> Runs:
    """Trained models, each made once when a test first asks for it."""
    return Runs(workspace)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny GPT-2 of random weights, as deep in it as Azure ML mounts one."""
    from homer import sample, tokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, set_seed

    root = tmp_path_factory.mktemp("mounted")
    folder = root / "acpt-gpt2" / "1" / "model"
    folder.mkdir(parents=True)
    files, entries = tokenizer.train(sample.corpus()[:300], 300)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    set_seed(0)
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    shape = {"n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(vocab_size=entries, **shape, **ends)).save_pretrained(folder)
    return root


@pytest.fixture(scope="session")
def emulated(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Emulated:
    """A copy of the example to run command lines in, against the emulator of Azure ML."""
    return make_emulated(workspace, tmp_path_factory.mktemp("emulated"))


@pytest.fixture(scope="session")
def submit_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """The emulator that `submit` talks to."""
    with Emulator(tmp_path_factory.mktemp("submit")) as made:
        yield made


@pytest.fixture
def submit(
    submit_emulator: Emulator,
    workspace: Workspace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Submit:
    """Calls `aml_finetune.py` in this process, with the prepared text of the workspace."""
    from azure.core.pipeline.transport import RequestsTransport
    from homer.azure import staging

    monkeypatch.setattr(staging, "DATA", workspace.folder)
    # The SDK asks again as often as ever, and waits a hundredth of the time in between.
    monkeypatch.setattr(RequestsTransport, "sleep", lambda self, seconds: sleep(seconds / 100))
    for name, value in submit_emulator.environment().items():
        monkeypatch.setenv(name, value)
    # The SDK notes the branch and commit of the current folder.
    monkeypatch.chdir(tmp_path)
    # Leaves out the address that only virtual machines of Azure have.
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    return Submit(submit_emulator, tmp_path)


@pytest.fixture
def deploys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Deploys]:
    """Calls `aml_deploy.py` in this process, in a workspace with a model and quick servers."""
    import aml_deploy
    from homer.azure import deployment, endpoints
    from homer.azure.emulator import endpoints as emulated_endpoints

    emulator = Emulator(tmp_path / "state", interrupt=interrupt_this_process)
    (tmp_path / "model").mkdir()
    register(emulator.state, tmp_path / "model")
    monkeypatch.setattr(aml_deploy, "OUTPUTS", tmp_path / "outputs")
    monkeypatch.setattr(deployment, "SERVING", serving_folder(tmp_path / "serving"))
    monkeypatch.setattr(emulated_endpoints, "Server", AtOnce)
    monkeypatch.setattr(endpoints, "_PAUSE", 0.01)
    for name, value in emulator.environment().items():
        monkeypatch.setenv(name, value)
    with emulator:
        yield Deploys(emulator, capsys)


@pytest.fixture
def call() -> Iterator[Callable[[list[str]], int]]:
    """Calls `main()` of the training script here, for mistakes found before training starts."""
    import finetune

    def run(options: list[str]) -> int:
        with pytest.raises(SystemExit) as stop:
            finetune.main(options)
        return int(stop.value.code or 0)

    with mock.patch.dict(os.environ):
        for name in list(os.environ):
            if name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
                del os.environ[name]
        yield run
