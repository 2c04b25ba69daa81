"""A benchmark without workers: what is asked, what is kept, and the figures made of it."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from torch import nn

from acpt_trainer import ConfigurationError, NotEngagedError, Problem
from acpt_trainer.measure import bench, crew
from acpt_trainer.measure.crew import WorkerError
from acpt_trainer.measure.entry import BenchRequest, Entry, parse_entries
from acpt_trainer.measure.figures import Figures, figures
from acpt_trainer.measure.flops import matmul_rate, step_flops
from acpt_trainer.measure.mailbox import answer, question, read_json, wait_for, write_json
from acpt_trainer.measure.plots import write_pictures
from acpt_trainer.measure.results import markdown, write_results
from acpt_trainer.measure.session import Rows
from acpt_trainer.measure.store import Store
from acpt_trainer.measure.worker import Trains, fault, serve

ROW = {
    "strategy", "precision", "nproc", "status", "step_seconds", "samples_per_second",
    "tokens_per_second", "speedup", "mfu", "peak_memory_mb", "first_step_seconds",
    "break_even_steps", "final_loss",
}  # fmt: skip


def entries(*labels: str) -> tuple[Entry, ...]:
    return tuple(Entry(label, label, "fp32") for label in labels)


def started(seconds: float) -> list[dict[str, Any]]:
    report = {"precision": "fp32", "optimizer_state_bytes": 8}
    return [{"prepare_seconds": 0.5, "first_step_seconds": seconds, "report": report}]


def turned(step: float, losses: list[float], memory: float = 100.0) -> list[dict[str, Any]]:
    return [
        {
            "seconds": [[0.0, step / 4, step / 2, step / 4]] * 2, "samples": 8, "tokens": 80,
            "losses": losses, "peak_memory_mb": memory,
            "report": {"precision": "fp32", "optimizer_state_bytes": 8},
        }
    ]  # fmt: skip


def filled(folder: Path) -> Figures:
    """`fast` is twice as fast in one round and four times in the other, as the machine drifts."""
    slow, fast, broken = made = entries("slow", "fast", "broken")
    store = Store(folder, BenchRequest("m", made, batch_size=4, steps=4, rounds=2))
    store.put("facts", {
        "machine": {"cpu": {"model": "c", "cores": 2}, "cuda": [], "load_before": 0.1,
                    "versions": {"torch": "2"}},
        "flops_per_sample": 10.0, "parameters": 5, "model": "M",
    })  # fmt: skip
    store.put("start", started(1.0), slow)
    store.put("start", started(7.0), fast)
    for number, (one, other) in enumerate([(2.0, 1.0), (4.0, 1.0)]):
        store.put(f"rates-{number}", {"fp32": 80.0})
        store.put(f"turn-{number}", turned(one, [4.0, 3.0] * (number + 1)), slow)
        store.put(f"turn-{number}", turned(other, [4.0, 2.0, 1.0][: 2 + number], 50.0), fast)
    store.put("fault", {"status": "failed", "reason": "it broke", "fix": "mend it"}, broken)
    return figures(store)


def test_figures_pair_the_rounds(tmp_path: Path) -> None:
    slow, fast, broken = filled(tmp_path).rows
    assert (slow.speedup, slow.break_even_steps) == (1.0, 0)
    assert fast.speedup == pytest.approx((2 + 4) / 2)
    assert fast.step_seconds == 1.0
    assert fast.samples_per_second == pytest.approx(4.0)
    assert fast.tokens_per_second == pytest.approx(40.0)
    assert fast.mfu == pytest.approx(10 * 4 / 80)
    assert fast.peak_memory_mb == 50.0
    assert fast.final_loss == pytest.approx(1.5)
    # 6 s more at the start, and each step saves two thirds of 3 s.
    assert fast.break_even_steps == 3
    assert (broken.status, broken.speedup, broken.final_loss) == ("failed", None, None)


def test_results_have_the_schema(tmp_path: Path) -> None:
    found = filled(tmp_path)
    write_results(found, tmp_path)
    written = json.loads((tmp_path / "results.json").read_text())
    assert {"machine", "rows"} <= set(written)
    assert [set(row) for row in written["rows"]] == [ROW] * 3
    assert written["details"][1]["speedup_range"] == [2.0, 4.0]
    assert written["details"][1]["split_seconds"]["backward"] == 0.5
    page = (tmp_path / "results.md").read_text()
    assert page == "\n".join(markdown(found)) + "\n"
    assert "3.00 (2.00 to 4.00)" in page
    assert "* `broken` failed: it broke. Way out: mend it." in page


def test_pictures_are_drawn(tmp_path: Path) -> None:
    found = filled(tmp_path)
    files = write_pictures(found, tmp_path)
    assert [file.name for file in files] == ["speedup.png", "loss.png", "memory.png"]
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    found.rows, found.details = found.rows[2:], found.details[2:]
    assert write_pictures(found, tmp_path) == []


def test_store_goes_on_and_knows_another_benchmark(tmp_path: Path) -> None:
    one, two = made = entries("a", "b:c/d")
    store = Store(tmp_path, BenchRequest("m", made, rounds=3))
    assert store.rounds_left(one) == [0, 1, 2]
    store.put("turn-0", [1], one)
    store.put("fault", {"status": "failed"}, two)
    again = Store(tmp_path, BenchRequest("m", made, rounds=3))
    assert (again.rounds_left(one), again.rounds_left(two)) == ([1, 2], [])
    assert again.place(two).name == "2-b-c-d"
    with pytest.raises(ConfigurationError, match="other batch_size, rounds"):
        Store(tmp_path, BenchRequest("m", made, rounds=4, batch_size=1))
    assert Store(tmp_path, BenchRequest("m", made), overwrite=True).rounds_left(one)[0] == 0


def test_entries_have_options_of_their_own() -> None:
    found, problems = parse_entries("no_acc, ort:eager,no_acc:bf16:sdpa", "fp32", None)
    assert not problems
    assert [(e.label, e.strategy, e.precision, e.attention) for e in found] == [
        ("no_acc", "no_acc", "fp32", None),
        ("ort:eager", "ort", "fp32", "eager"),
        ("no_acc:bf16:sdpa", "no_acc", "bf16", "sdpa"),
    ]
    assert len(parse_entries("a:quick,a,a", "fp32", None)[1]) == 2
    assert len(parse_entries(" ,", "fp32", None)[1]) == 1


def test_rows_repeat_and_have_so_many_lengths(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(n_layer=1, n_head=1, n_embd=4, vocab_size=50, n_positions=32)
    model = GPT2LMHeadModel(config)
    rows = Rows(model, 32, rows_per_step=2, lengths=5)
    made = [len(rows[i]["input_ids"]) for i in range(10)]
    assert made[::2] == made[1::2]  # a step has one length
    assert sorted(made[::2]) == [16, 20, 24, 28, 32]
    assert rows[3]["input_ids"].equal(Rows(model, 32, 2, 5)[3]["input_ids"])
    assert not rows[0]["input_ids"][:16].equal(rows[1]["input_ids"][:16])


def test_operations_of_a_step_are_counted() -> None:
    class Loss(nn.Linear):
        def forward(self, x: torch.Tensor) -> Any:
            return type("Output", (), {"loss": super().forward(x).sum()})

    # Forward, and the gradient of the weight; the input needs none.
    assert step_flops(Loss(8, 4), {"x": torch.ones(2, 8)}) == 2 * (2 * 2 * 8 * 4)
    assert matmul_rate("fp32", torch.device("cpu"), seconds=0.01) > 1e6


def test_worker_answers_until_it_is_told_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acpt_trainer.measure.worker.matmul_rate", lambda *_: 7.0)
    write_json(tmp_path / "job.json", {"kind": "probes", "imports": []})
    working = threading.Thread(target=serve, args=(tmp_path, 0, lambda: True))
    working.start()
    write_json(question(tmp_path, 0), {"do": "rate", "precision": "fp32", "seconds": 0})
    assert wait_for(answer(tmp_path, 0, 0), working.is_alive, 30) == {"rate": 7.0}
    write_json(question(tmp_path, 1), {"do": "facts"})  # the job names no model: an error
    said = wait_for(answer(tmp_path, 1, 0), working.is_alive, 30)
    assert WorkerError(**said["error"]).status == "failed"
    working.join(30)
    assert not working.is_alive()


def test_mistake_and_defect_are_told_apart() -> None:
    problem = Problem("no bf16 here", "precision", "take fp32")
    assert fault(ConfigurationError([problem])) == {
        "status": "refused", "reason": "no bf16 here", "fix": "take fp32",
    }  # fmt: skip
    assert fault(NotEngagedError("it fell back"))["status"] == "refused"
    assert fault(ValueError("odd")) == {
        "status": "failed", "reason": "ValueError: odd", "fix": "",
    }  # fmt: skip


def test_nobody_waits_for_the_dead(tmp_path: Path) -> None:
    assert wait_for(tmp_path / "none.json", lambda: False) is None
    with pytest.raises(TimeoutError):
        wait_for(tmp_path / "none.json", lambda: True, seconds=0.0)
    assert read_json(tmp_path / "none.json") is None


@pytest.mark.parametrize(
    ("does", "status", "said"),
    [("raise SystemExit(3)", "crashed", "exit status 3"), ("import time; time.sleep(60)",
                                                           "timed out", "no answer in 2 seconds")],
)  # fmt: skip
def test_worker_that_gives_no_answer_is_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, status: str, said: str
) -> None:
    monkeypatch.setattr(crew, "_command", lambda nproc: [sys.executable, "-c", does])
    monkeypatch.setattr(crew, "_GOODBYE_SECONDS", 0.1)
    worker = crew.Worker(tmp_path, {}, nproc=1, timeout=30 if status == "crashed" else 2)
    with pytest.raises(crew.WorkerError) as caught:
        worker.ask("start")
    assert (caught.value.status, said in caught.value.reason) == (status, True)
    worker.close()
    assert worker.process.poll() is not None


TOLD = """
import os, pathlib, signal, subprocess, sys, time
mine = pathlib.Path(sys.argv[1])
def told(*_):
    (mine / "told").touch()
    while not all((f / "told").exists() for f in mine.parent.iterdir()):
        time.sleep(0.01)
    sys.exit(7)
signal.signal(signal.SIGTERM, told)
rank = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                        start_new_session=True)
(mine / "rank.part").write_text(str(rank.pid))
os.replace(mine / "rank.part", mine / "rank")
time.sleep(600)
"""


def lives(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_busy_workers_are_ended_together_with_what_they_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each ends only once the other was told, too; a rank of torchrun has its own session."""
    monkeypatch.setattr(crew, "_command", lambda nproc: [sys.executable, "-c", TOLD])
    workers, ranks = [], []

    def interrupted() -> None:
        with crew.ended_together() as started:
            for name in "ab":
                started.append(crew.Worker(tmp_path / name, {}, nproc=1, timeout=30))
            workers.extend(started)
            ranks.extend(wait_for(w.folder / "rank", lambda: True, 60) for w in workers)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [worker.process.returncode for worker in workers] == [7, 7]
    until = time.monotonic() + 30
    while any(map(lives, ranks)):  # they are killed, which may take a moment
        assert time.monotonic() < until
        time.sleep(0.01)


def test_worker_that_starts_again_has_the_losses_of_one_run(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    made = {"model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 8, "n_positions": 8}
    write_json(config, {**made, "vocab_size": 16, "bos_token_id": 1, "eos_token_id": 2})
    entry = Entry("no_acc", "no_acc", "fp32")
    request = BenchRequest(str(config), (entry,), 2, 8, steps=4, rounds=2, warmup_steps=1)

    whole = Trains(request.job(entry))
    whole.start()
    whole.turn(2)
    losses = whole.turn(2)["losses"]
    whole.session.close()
    assert len(losses) == 2 + 2 * 3
    assert len(set(losses)) == len(losses)  # dropout and rows differ from step to step

    again = Trains(request.job(entry))
    again.start(again=3)
    assert again.turn(2)["losses"] == pytest.approx(losses, rel=1e-6)
    again.session.close()


def test_bench_has_a_killed_entry_make_its_steps_again(tmp_path: Path) -> None:
    (entry,) = made = entries("no_acc")
    store = Store(tmp_path, BenchRequest("m", made, steps=4, rounds=2))
    asked: list[dict[str, Any]] = []
    worker: Any = SimpleNamespace(ask=lambda do, **details: asked.append(details) or [{}])
    bench._entered(store, entry, worker, lambda line: None)
    store.put("turn-0", turned(1.0, [1.0]), entry)
    bench._entered(store, entry, worker, lambda line: None)
    assert asked == [{"again": 0}, {"again": 1 + 2}]
