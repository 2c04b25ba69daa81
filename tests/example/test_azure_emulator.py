"""The emulator itself: what it refuses, what it does not pass on, what it keeps."""

from __future__ import annotations

import json
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from azure_runs import Emulated
from homer.azure.emulator import Emulator, Fault
from homer.azure.emulator import processes as jobs
from homer.azure.emulator.endpoints import KEY
from homer.azure.emulator.faults import load_faults
from homer.azure.emulator.identity import TOKEN
from homer.azure.emulator.protocol import Refused
from homer.azure.emulator.serving import seconds

from acpt_trainer import ConfigurationError


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[Emulator]:
    with Emulator(tmp_path / "state") as made:
        yield made


def get(emulator: Emulator, url: str, token: str = TOKEN) -> tuple[int, bytes]:
    """Asks through the proxy, trusting its authority alone."""
    given = emulator.environment()
    proxies = {"https": given["HTTPS_PROXY"], "http": given["HTTP_PROXY"]}
    context = ssl.create_default_context(cafile=given["REQUESTS_CA_BUNDLE"])
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler(proxies), urllib.request.HTTPSHandler(context=context)
    )
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    try:
        with opener.open(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.parametrize("url", ["https://example.com/x", "https://evil.management.azure.com/"])
def test_other_hosts_are_refused_and_recorded(emulator: Emulator, url: str) -> None:
    with pytest.raises(OSError, match="502"):
        get(emulator, url)
    host = url.split("/")[2]
    assert emulator.refused == [f"{host}:443"]
    log = emulator.state.folder / "requests.jsonl"
    assert json.loads(log.read_text()) == {"refused": f"{host}:443"}


def test_plain_http_is_refused_and_recorded(emulator: Emulator) -> None:
    assert get(emulator, "http://management.azure.com/x")[0] == 502
    assert emulator.refused == ["http://management.azure.com/x"]


def test_it_listens_on_the_loopback_interface_alone(emulator: Emulator) -> None:
    assert emulator.environment()["HTTPS_PROXY"].startswith("http://127.0.0.1:")


def test_request_without_a_token_is_refused(emulator: Emulator) -> None:
    url = f"https://management.azure.com{emulator.state.workspace_id}"
    assert get(emulator, url, "other")[0] == 401
    assert get(emulator, url)[0] == 200


def test_log_holds_no_token(emulator: Emulator) -> None:
    get(emulator, f"https://management.azure.com{emulator.state.workspace_id}")
    assert TOKEN not in (emulator.state.folder / "requests.jsonl").read_text()
    assert KEY not in (emulator.state.folder / "requests.jsonl").read_text()


def test_fault_strikes_as_often_as_it_says(emulator: Emulator) -> None:
    url = f"https://management.azure.com{emulator.state.workspace_id}"
    emulator.faults.append(Fault("GET .*/workspaces/", status=418, skip=1, times=2))
    assert [get(emulator, url)[0] for _ in range(4)] == [200, 418, 418, 200]


def test_resources_outlive_the_emulator(tmp_path: Path) -> None:
    with Emulator(tmp_path) as first:
        path = f"{first.state.workspace_id}/models/m/versions/1"
        first.state.put(path, {"properties": {"a": 1}})
    with Emulator(tmp_path) as second:
        assert second.state.get(path)["properties"] == {"a": 1}


@pytest.mark.parametrize("path", ["../../secret", "c/../../../secret"])
def test_paths_out_of_the_storage_account_are_refused(emulator: Emulator, path: str) -> None:
    with pytest.raises(Refused, match="leads out"):
        emulator.state.folder_of(f"https://emulatedstore.blob.core.windows.net/{path}")


def test_jobs_inherit_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_CLIENT_SECRET", "secret")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("RANK", "7")
    made = jobs.environment({"A": "1"})
    assert made["A"] == "1"
    assert not {"AZURE_CLIENT_SECRET", "PYTHONPATH", "RANK"} & set(made)


def test_processes_get_the_ranks_of_their_nodes(tmp_path: Path) -> None:
    names = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR")
    shown = " ".join(f"${name}" for name in names)
    job = {
        "distribution": {"processCountPerInstance": 2},
        "resources": {"instanceCount": 2},
        "environmentVariables": {"WORLD_SIZE": "99"},
    }
    started = jobs.start(f"echo {shown}", tmp_path, job, {}, tmp_path / "log")
    assert jobs.wait(started, lambda: False) == 0
    lines = sorted((tmp_path / "log").read_text().splitlines())
    assert lines == [f"{rank} {rank % 2} {rank // 2} 4 127.0.0.1" for rank in range(4)]


def test_process_that_fails_ends_the_others(tmp_path: Path) -> None:
    job = {"distribution": {"processCountPerInstance": 2}}
    command = 'if [ "$RANK" = 0 ]; then exit 3; else sleep 300; fi'
    started = jobs.start(command, tmp_path, job, {}, tmp_path / "log")
    assert jobs.wait(started, lambda: False) == 3
    assert all(process.returncode is not None for process in started)


@pytest.mark.parametrize("content", ["{", "{}", '[{"match": "x", "typo": 1}]', "[1]"])
def test_bad_list_of_faults_is_a_problem(tmp_path: Path, content: str) -> None:
    path = tmp_path / "faults.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match="not a list of faults"):
        load_faults(path)


@pytest.mark.parametrize(
    ("duration", "value"), [("PT1M", 60), ("PT90S", 90), ("PT1H2M3S", 3723), ("PT2.5S", 2.5)]
)
def test_durations_are_read(duration: str, value: float) -> None:
    assert seconds(duration) == value


@pytest.mark.slow
def test_command_line_passes_status_and_refusals_on(emulated: Emulated) -> None:
    code = "import urllib.request as u; u.urlopen('https://example.com')"
    run = emulated(f'python -c "{code}"; exit 7')
    assert run.done.returncode == 7, run.shown
    assert run.refused == ["example.com:443"]
    assert "This is not Azure" in run.done.stdout
    assert "refused: example.com:443" in run.done.stdout
    assert os.path.exists(emulated.config)
