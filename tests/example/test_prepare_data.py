"""The data preparation script of the GPT-2 example, end to end on small made-up files."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import prepare_data
import pytest
from homer import corpus, sample, tokenizer
from made_up_book import BOOK, SENTENCES, contents, entry, forbid_network, sha256

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(prepare_data.__file__).resolve()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs main() on a cached made-up book; returns its exit status."""
    monkeypatch.delenv("HOMER_CACHE", raising=False)
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "book.txt").write_bytes(BOOK.encode())
    json_file = tmp_path / "source.json"
    json_file.write_text(json.dumps({"label": "Kettles", "texts": [entry()]}))

    def call(*options: str) -> int:
        defaults = ["--source", json_file, "--cache_dir", cache, "--output_dir", tmp_path / "out"]
        try:
            prepare_data.main([str(o) for o in (*defaults, *options)])
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return call


def test_outputs_and_record(run: Callable[..., int], tmp_path: Path) -> None:
    assert run() == 0
    out = contents(tmp_path / "out")
    training, validation = (
        "".join(f"{line}\n" for line in part).encode() for part in (SENTENCES[:5], SENTENCES[5:])
    )
    assert set(out) == {"training_raw.txt", "validation_raw.txt", "corpus.json"}
    assert (out["training_raw.txt"], out["validation_raw.txt"]) == (training, validation)
    record = json.loads(out["corpus.json"])
    assert record["label"] == "Kettles"
    assert record["inputs"][0]["sha256"] == sha256(BOOK.encode())
    assert record["split_percent"] == 80
    assert record["training"] == {"sentences": 5, "characters": len(training)}
    assert record["outputs"]["validation_raw.txt"] == sha256(validation)


def test_second_run_changes_nothing(
    run: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run() == 0
    monkeypatch.setattr(corpus, "write", lambda *_: pytest.fail("written again"))
    capsys.readouterr()
    assert run() == 0
    assert "up to date" in capsys.readouterr().out


@pytest.mark.parametrize("damaged", ["training_raw.txt", "validation_raw.txt", "corpus.json"])
def test_damaged_output_is_made_again(
    run: Callable[..., int], tmp_path: Path, damaged: str
) -> None:
    assert run() == 0
    good = contents(tmp_path / "out")
    (tmp_path / "out" / damaged).write_bytes(b"{")
    assert run() == 0
    assert contents(tmp_path / "out") == good


def test_another_split_is_made_again(run: Callable[..., int], tmp_path: Path) -> None:
    assert run() == 0
    assert run("--split", "30") == 0
    lines = (tmp_path / "out" / "training_raw.txt").read_text().splitlines()
    assert lines == SENTENCES[:2]


def test_environment_names_the_cache(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMER_CACHE", str(tmp_path / "here"))
    assert prepare_data.parse([]).cache_dir == tmp_path / "here"
    monkeypatch.setenv("HOMER_CACHE", "")
    assert prepare_data.parse([]).cache_dir == SCRIPT.parent / "data" / "cache"
    assert prepare_data.parse(["--cache_dir", "x"]).cache_dir == Path("x")


@pytest.mark.parametrize("bad", ["0", "100", "-5", "eighty", "80.5", "", "8_0"])
def test_bad_split(
    run: Callable[..., int], tmp_path: Path, bad: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"--split={bad}") == 2
    assert "not a whole number from 1 to 99" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_all_bad_options_are_reported_together(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.touch()
    options = ["--split", "0", "--tokenizer_vocab_size", "256", "--source", tmp_path / "no.json"]
    assert run(*options, "--cache_dir", file, "--output_dir", file / "below") == 2
    message = capsys.readouterr().err
    assert "5 problems found" in message
    for option in ("--split", "--tokenizer_vocab_size", "--source", "--cache_dir", "--output_dir"):
        assert f"where: {option}" in message


@pytest.mark.parametrize(("step", "failing_call"), [("fsync", 1), ("fsync", 2), ("replace", 1)])
def test_full_disk_leaves_the_old_outputs(
    run: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: str,
    failing_call: int,
) -> None:
    assert run() == 0
    before = contents(tmp_path / "out")
    real, calls = getattr(os, step), []

    def full(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == failing_call:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args)

    monkeypatch.setattr(os, step, full)
    capsys.readouterr()
    assert run("--split", "50") == 2
    message = capsys.readouterr().err
    assert "No space left" in message
    assert "_raw.txt" in message
    assert "Traceback" not in message
    assert contents(tmp_path / "out") == before


def test_sample_is_labelled_and_stable(tmp_path: Path) -> None:
    # Two processes with different hash seeds: set and dict order must not show in the bytes.
    outputs = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": seed}
        command = [sys.executable, SCRIPT, "--source", "sample", "--output_dir", out]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert "generated sample, not Homer" in done.stdout
        outputs.append(contents(out))
    assert outputs[0] == outputs[1]
    assert json.loads(outputs[0]["corpus.json"])["label"] == "generated sample, not Homer"
    size = sum(len(outputs[0][name]) for name in ("training_raw.txt", "validation_raw.txt"))
    assert 300_000 < size < 500_000


def test_sample_is_the_same_on_every_platform() -> None:
    # Pinned: whoever changes the generator changes results that others compare.
    assert (
        sha256("\n".join(sample.corpus()).encode())
        == "99e03d491183175651276d2db7dba38b1c46813784434ca94f29f434e85576ae"
    )


def test_sample_reads_as_sentences() -> None:
    found = sample.corpus()
    assert len(found) > 3000
    odd = [s for s in found if not re.fullmatch(r"""["(']*[A-Z][^{}*\n]*[.!?]["')]*""", s)]
    assert odd == []


def test_tokenizer_is_deterministic_and_round_trips(
    run: Callable[..., int], tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        assert run("--tokenizer_vocab_size", "264", "--output_dir", folder) == 0
    assert contents(folders[0]) == contents(folders[1])
    trained = transformers.AutoTokenizer.from_pretrained(folders[0] / "tokenizer")
    assert len(trained) == 264
    end = tokenizer.END_OF_TEXT
    assert {trained.bos_token, trained.eos_token, trained.pad_token, trained.unk_token} == {end}
    line = '"O  cup!\u2019 \u00e6\u4e16 7\n'
    ids = trained(line)["input_ids"]
    assert trained.decode(ids) == line
    assert len(ids) < len(line.encode()) + 1
    assert trained(f"a{end}")["input_ids"][-1] == trained.eos_token_id


def test_small_text_gives_a_smaller_vocabulary_and_says_so(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--tokenizer_vocab_size", "5000") == 0
    assert "fewer than the 5000 asked for" in capsys.readouterr().out


def test_changed_tokenizer_is_made_again(run: Callable[..., int], tmp_path: Path) -> None:
    assert run("--tokenizer_vocab_size", "264") == 0
    good = contents(tmp_path / "out")
    (tmp_path / "out" / "tokenizer" / "tokenizer.json").unlink()
    assert run("--tokenizer_vocab_size", "264") == 0
    assert contents(tmp_path / "out") == good


def test_help_needs_no_heavy_imports() -> None:
    code = (
        "import sys, prepare_data\n"
        "try: prepare_data.main(['--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{SCRIPT.parent}"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "examples:" in done.stdout
    assert "--tokenizer_vocab_size" in done.stdout


# --- the real texts ---------------------------------------------------------------------------


def real_cache() -> Path | None:
    named = os.environ.get("HOMER_CACHE")
    folder = Path(named) if named else ROOT.parent / "shared" / "data" / "homer"
    names = ("6130-0.txt", "3160.txt")
    return folder if all((folder / name).is_file() for name in names) else None


@pytest.mark.skipif(real_cache() is None, reason="needs the source files: set HOMER_CACHE")
def test_real_texts_are_clean_verse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_network(monkeypatch)
    prepare_data.main(["--cache_dir", str(real_cache()), "--output_dir", str(tmp_path)])
    training, validation = (
        (tmp_path / name).read_bytes().decode("ascii").splitlines()
        for name in ("training_raw.txt", "validation_raw.txt")
    )
    assert len(training) > 7000
    assert len(validation) > 1500
    odd = re.compile(
        r"gutenberg|footnote|illustration|\bargument\b\.|\bbook [ivx]+\b|e-?text|\d|[][_*#<>|{}`&]",
        re.IGNORECASE,
    )
    for line in training + validation:
        assert not odd.search(line), line
        assert any(c.islower() for c in line), line
        assert not re.search(r"\b[A-Z]{3,}\b", line), line
        assert re.search(r"""[.!?]["')]*$""", line), line
        assert line == " ".join(line.split()), line
        assert len(line) < 1500, line
