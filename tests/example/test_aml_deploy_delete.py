"""`aml_deploy.py --delete`: what it takes for its own, and what it says when it fails."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aml_deploy
import pytest
from deploy_runs import AZ_DELETE, Deploys, operation
from homer.azure.emulator import Fault
from homer.azure.endpoints import az_delete, delete
from homer.azure.errors import AzureError
from homer.azure.owner import is_own, own_tags
from homer.azure.workspace import WorkspaceConfig

CONFIG = WorkspaceConfig("sub-id", "my group", "place; reboot", Path("my config.json"))


class Workspace:
    """A client whose endpoints are a list; deletions are only noted."""

    def __init__(self, **tags: dict[str, str]) -> None:
        self.deleted: list[str] = []
        self.online_endpoints = self
        self._found = [SimpleNamespace(name=name, tags=tags[name]) for name in tags]

    def list(self) -> list[SimpleNamespace]:
        return self._found

    def begin_delete(self, name: str) -> Any:
        self.deleted.append(name)
        return SimpleNamespace(done=lambda: True, status=lambda: "Succeeded", result=lambda: None)


def test_endpoint_of_a_colleague_is_not_deleted_unasked(tmp_path: Path) -> None:
    colleague = own_tags(tmp_path / "hers")
    own_tags(tmp_path / "mine")
    workspace = Workspace(theirs=colleague)
    with pytest.raises(AzureError, match=r"none of the endpoints .*theirs") as caught:
        delete(workspace, CONFIG, None, tmp_path / "mine", print)
    assert "--endpoint_name" in str(caught.value)
    with pytest.raises(AzureError):
        delete(workspace, CONFIG, None, tmp_path / "never used", print)
    assert workspace.deleted == []
    delete(workspace, CONFIG, None, tmp_path / "hers", print)
    assert workspace.deleted == ["theirs"]


def test_id_stays_and_belongs_to_one_folder(tmp_path: Path) -> None:
    tags = own_tags(tmp_path / "a")
    assert own_tags(tmp_path / "a") == tags
    assert is_own(tags, tmp_path / "a")
    assert own_tags(tmp_path / "b") != tags
    assert not is_own(tags, tmp_path / "b")
    assert not is_own({"made_from": ""}, tmp_path / "c")
    assert not is_own(None, tmp_path / "a")


def test_id_that_cannot_be_kept_stops_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AzureError, match="cannot be kept"):
        own_tags(tmp_path / "file" / "outputs")


def test_name_is_found_in_any_case(tmp_path: Path) -> None:
    workspace = Workspace(**{"Acpt-One": {}})
    delete(workspace, CONFIG, "acpt-ONE", tmp_path, print)
    assert workspace.deleted == ["Acpt-One"]


def test_printed_lines_survive_a_shell() -> None:
    words = shlex.split(az_delete(CONFIG, "one"))
    assert words[words.index("--resource-group") + 1] == "my group"
    assert words[words.index("--workspace-name") + 1] == "place; reboot"


@pytest.mark.slow
def test_without_a_name_the_only_one_made_here_is_deleted(deploys: Deploys) -> None:
    root = f"{deploys.emulator.state.workspace_id}/onlineEndpoints"
    deploys.emulator.state.put(
        f"{root}/foreign",
        {"properties": {"authMode": "Key", "properties": {}}, "tags": {"made_by": "aml_deploy.py"}},
    )
    assert deploys("--endpoint_name", "mine-one")[0] == 0
    assert deploys("--endpoint_name", "mine-two")[0] == 0
    status, printed = deploys("--delete")
    assert (status, len(deploys.endpoints)) == (2, 3)
    assert "mine-one, mine-two" in printed
    assert deploys("--delete", "--endpoint_name", "mine-one")[0] == 0
    assert deploys("--delete")[0] == 0
    assert deploys.endpoints == ["foreign"]
    status, printed = deploys("--delete", "--endpoint_name", "mine-two")
    assert status == 0
    assert "there is no endpoint mine-two; the workspace has: foreign" in printed
    status, printed = deploys("--endpoint_name", "FOREIGN")
    assert (status, deploys.endpoints) == (2, ["foreign"])
    assert "the endpoint foreign is there already" in printed


@pytest.mark.slow
@pytest.mark.parametrize("what", ["fails", "interrupted"])
def test_deletion_that_does_not_end_well_prints_the_line(deploys: Deploys, what: str) -> None:
    assert deploys("--endpoint_name", "mine-one")[0] == 0
    fault = operation("DELETE", "InternalError")
    if what == "interrupted":
        fault = Fault("DELETE", interrupt=True)
    status, printed = deploys("--delete", faults=(fault,))
    assert status == (130 if what == "interrupted" else 5)
    assert re.search(AZ_DELETE.format("mine-one"), printed)
    assert "--timeout" not in printed


@pytest.mark.parametrize("options", [["--delete"], []])
def test_debug_reaches_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    seen: list[bool] = []

    def connect(config: WorkspaceConfig, debug: bool = False) -> None:
        seen.append(debug)
        raise KeyboardInterrupt

    monkeypatch.setattr("homer.azure.client.connect", connect)
    monkeypatch.setattr(aml_deploy, "checked", lambda args: CONFIG)
    with pytest.raises(SystemExit):
        aml_deploy.main(["--ws_config", str(tmp_path), "--debug", *options])
    assert seen == [True]
