"""Exported graphs in a folder: whole or made anew, found by all they depend on, of bounded size."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acpt_trainer.ort import cache as module
from acpt_trainer.ort import patches
from acpt_trainer.ort.cache import ExportCache

onnx = pytest.importorskip("onnx")


def graph(name: str = "g", size: int = 0) -> Any:
    doc = "x" * size
    return onnx.helper.make_model(onnx.helper.make_graph([], name, [], [], doc_string=doc))


@pytest.fixture
def cache(tmp_path: Path) -> ExportCache:
    return ExportCache(tmp_path)


def test_cache_gives_back_what_it_keeps(cache: ExportCache) -> None:
    assert cache.load("a") is None
    with cache.turn("a"):
        cache.store("a", graph("kept"), {"model": "Kettle"})
    assert cache.load("a") == graph("kept")
    assert cache.load("b") is None
    manifest = json.loads((cache.folder / "a.json").read_text())
    assert manifest["model"] == "Kettle"
    assert manifest["versions"]["torch"]


def test_cache_replaces_an_entry(cache: ExportCache) -> None:
    cache.store("a", graph("first"), {})
    cache.store("a", graph("second"), {})
    assert cache.load("a").graph.name == "second"
    assert sorted(p.name for p in cache.folder.iterdir()) == ["a.json", "a.onnx"]


def torn(folder: Path) -> None:
    file = folder / "a.onnx"
    file.write_bytes(file.read_bytes()[:-3])


def flipped(folder: Path) -> None:
    file = folder / "a.onnx"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def not_onnx(folder: Path) -> None:
    data = b"\xff" * 20  # whole as its checksum goes
    (folder / "a.onnx").write_bytes(data)
    text = json.dumps({"sha256": module.hashlib.sha256(data).hexdigest()})
    (folder / "a.json").write_text(text)


SPOILS = {
    "torn": torn,
    "flipped": flipped,
    "not-onnx": not_onnx,
    "no-graph": lambda folder: (folder / "a.onnx").unlink(),
    "empty-manifest": lambda folder: (folder / "a.json").write_text(""),
    "other-manifest": lambda folder: (folder / "a.json").write_text("[1]"),
    "binary-manifest": lambda folder: (folder / "a.json").write_bytes(b"\xff\xfe"),
}


@pytest.mark.parametrize("spoil", SPOILS.values(), ids=SPOILS)
def test_cache_takes_a_spoilt_entry_away_and_says_so(
    cache: ExportCache, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    cache.store("a", graph(), {})
    spoil(cache.folder)
    assert cache.load("a") is None
    assert "a.onnx is made anew: " in caplog.text
    assert list(cache.folder.iterdir()) == []


def test_cache_has_no_entry_until_it_is_finished(
    cache: ExportCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write = ExportCache._write

    def full_disk(self: ExportCache, name: str, data: bytes) -> None:
        if name.endswith(".json"):
            raise OSError(28, "No space left on device")
        write(self, name, data)

    monkeypatch.setattr(ExportCache, "_write", full_disk)
    with pytest.raises(OSError, match="No space left"):
        cache.store("a", graph(), {})
    assert cache.load("a") is None
    assert caplog.text == ""


def test_cache_leaves_no_half_file_of_a_write_that_failed(
    cache: ExportCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        cache.store("a", graph(), {})
    assert list(cache.folder.iterdir()) == []


def test_cache_removes_what_was_not_used_for_the_longest(tmp_path: Path) -> None:
    cache = ExportCache(tmp_path, limit=2500)
    for age, key in ((300, "oldest"), (200, "used"), (100, "newer")):
        cache.store(key, graph(size=700), {})
        time = os.stat(cache.folder).st_mtime - age
        os.utime(cache.folder / f"{key}.json", (time, time))
    assert cache.load("used") is not None
    left_over = cache.folder / "dead.onnx.1.tmp"
    left_over.write_bytes(b"")
    os.utime(left_over, (0, 0))

    cache.store("newest", graph(size=700), {})

    assert sorted(p.stem for p in cache.folder.glob("*.onnx")) == ["newer", "newest", "used"]
    assert not left_over.exists()
    cache.store("huge", graph(size=9000), {})
    assert [p.stem for p in cache.folder.glob("*.onnx")] == ["huge"], "the one in use stays"


def test_cache_key_is_the_same_until_something_matters(
    cache: ExportCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [cache.key("digest"), cache.key("other")]
    assert cache.key("digest") == keys[0]

    monkeypatch.setenv("ORTMODULE_ONNX_OPSET_VERSION", "16")
    keys.append(cache.key("digest"))
    monkeypatch.setattr(patches, "_active", ("another",))
    keys.append(cache.key("digest"))
    monkeypatch.setattr(module, "_versions", lambda: {"torch": "9"})
    keys.append(cache.key("digest"))
    monkeypatch.setattr(module, "_source_digest", lambda: "edited")
    keys.append(cache.key("digest"))
    assert len(set(keys)) == 6


def test_cache_key_knows_symbolics_of_others_by_their_code(cache: ExportCache) -> None:
    import torch.onnx

    def register(function: Any) -> str:
        torch.onnx.register_custom_op_symbolic("aten::relu", function, 17)
        try:
            return cache.key("digest")
        finally:
            torch.onnx.unregister_custom_op_symbolic("aten::relu", 17)

    plain = cache.key("digest")
    keys = [
        register(lambda g, x: g.op("Relu", x)),
        register(lambda g, x: g.op("Sign", x)),
        register(lambda g, x: (lambda y: g.op("Sign", y))(x)),
    ]
    assert len({plain, *keys}) == 4
    assert register(lambda g, x: g.op("Relu", x)) == keys[0]
    assert cache.key("digest") == plain


def test_cache_key_covers_every_version_and_file(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = module._versions()
    assert {"python", "torch", "onnx", "transformers", "acpt-trainer"} <= set(versions)
    assert any(name.startswith("onnxruntime-training") for name in versions)
    read: list[str] = []
    read_bytes = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda p: read.append(p.name) or read_bytes(p))
    module._source_digest.__wrapped__()
    assert {"exporter.py", "registration.py", "preview.py", "selection.py"} <= set(read)


def test_cache_key_is_the_same_before_and_after_a_first_export(cache: ExportCache) -> None:
    """ONNX Runtime leaves symbolics behind; a later graph of the same process has the same key."""
    patches.start()  # a bare `import onnxruntime` leaves torch.utils.checkpoint replaced
    try:
        from onnxruntime.tools import pytorch_export_contrib_ops

        before = cache.key("digest")
        pytorch_export_contrib_ops.register()
        try:
            assert cache.key("digest") == before
        finally:
            pytorch_export_contrib_ops.unregister()
    finally:
        patches.stop()
