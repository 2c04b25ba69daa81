"""What holds for every test: no use of the user's cache, and no engine's state left to the next."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before = os.environ.get("ACPT_TRAINER_CACHE")
    os.environ["ACPT_TRAINER_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["ACPT_TRAINER_CACHE"]
    else:
        os.environ["ACPT_TRAINER_CACHE"] = before


@pytest.fixture(autouse=True)
def _own_engine() -> Iterator[None]:
    """Each test starts in a process that belongs to no group and has no accelerator.

    Accelerate, Transformers and `torch.distributed` keep such state for the process's life, and a
    trainer that a test makes, or fails to make, leaves it behind.
    """
    yield
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
    if "accelerate.state" in sys.modules:
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)
    if "transformers.integrations.deepspeed" in sys.modules:
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()
