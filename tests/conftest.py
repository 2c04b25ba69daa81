"""What holds for every test: no use of the user's cache, and no engine's state left to the next."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from unittest import mock

import pytest


@pytest.fixture(autouse=True, scope="session")
def _own_caches(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Graphs are exported anew; what DeepSpeed compiles is kept beside what pytest keeps.

    The user's folder would be compiled for another environment, in turns with it, and a build that
    was killed there leaves a lock that others wait for.
    """
    own = {
        "ACPT_TRAINER_CACHE": tmp_path_factory.mktemp("cache"),
        "TORCH_EXTENSIONS_DIR": request.config.cache.mkdir("torch_extensions"),
    }
    with mock.patch.dict(os.environ, {name: str(path) for name, path in own.items()}):
        yield


@pytest.fixture(autouse=True, scope="session")
def _interruptible() -> None:
    """Scripts that tests interrupt listen, also where the suite runs in the background of a shell.

    A shell without job control has what it puts there ignore Ctrl-C, and nohup has it ignore that
    the terminal is gone; so do their children.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True, scope="module")
def _imports_are_no_garbage() -> None:
    """What was imported before a file of tests is not looked through again in it.

    Accelerate collects garbage when a training begins and when it ends: a third of a second each
    with all that the tests import, which is longer than such a training.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_engine() -> Iterator[None]:
    """Each test starts in a process that belongs to no group, has no accelerator and no patch.

    Accelerate, Transformers and `torch.distributed` keep such state for the process's life, and a
    trainer that a test makes, or fails to make, leaves it behind. Patches of a model stay while
    the model trains: those of a test that failed, for ever.
    """
    yield
    patches = sys.modules.get("acpt_trainer.ort.patches")
    while patches is not None and patches.active():
        patches.stop()
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
    if "accelerate.state" in sys.modules:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)
    if "transformers.integrations.deepspeed" in sys.modules:
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()
