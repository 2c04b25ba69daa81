"""What score.py answers: the same for a seed, alone or in a batch, from safetensors alone."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import score
import score_model
import torch
from score_folder import find_model
from score_model import Answer, Model
from score_request import Limits, RequestError, ScoreRequest
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

PROMPTS = ("The king", "Across the wine-dark sea the ships", "O")


def asked(*prompts: str, **changes: Any) -> ScoreRequest:
    values = {"max_new_tokens": 12, "temperature": 0.9, "top_k": 50, "top_p": 1.0, "seed": 7}
    return ScoreRequest(prompts, **(values | changes))


def later() -> float:
    return time.monotonic() + 300


@pytest.fixture(scope="module")
def model(model_dir: Path) -> Model:
    return Model(find_model(model_dir))


@pytest.mark.parametrize("changes", [{}, {"temperature": 0}, {"top_k": 0, "top_p": 0.7}])
def test_batch_is_answered_like_one_by_one(model: Model, changes: dict[str, Any]) -> None:
    together = model.generate(asked(*PROMPTS, **changes), later())
    alone = [model.generate(asked(prompt, **changes), later())[0] for prompt in PROMPTS]
    assert together == alone
    assert len({answer.text for answer in together}) == len(PROMPTS)


def test_seed_repeats_the_answer(model: Model) -> None:
    first = model.generate(asked(*PROMPTS), later())
    torch.manual_seed(123)  # what other code draws has no say
    assert model.generate(asked(*PROMPTS), later()) == first
    assert model.generate(asked(*PROMPTS, seed=8), later()) != first


def test_generation_leaves_the_random_state_alone(model: Model) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    model.generate(asked("The king"), later())
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_samples_the_distribution() -> None:
    scores = torch.log(torch.tensor([[0.6, 0.3, 0.1]]))
    noise = score_model._SeededNoise(seed=3, rows=1)
    drawn = torch.stack([noise(None, scores).argmax() for _ in range(4000)])
    shares = torch.bincount(drawn, minlength=3) / 4000
    assert torch.allclose(shares, torch.tensor([0.6, 0.3, 0.1]), atol=0.03)


def test_top_k_of_one_is_the_likeliest(model: Model) -> None:
    greedy = model.generate(asked(*PROMPTS, temperature=0), later())
    assert model.generate(asked(*PROMPTS, top_k=1), later()) == greedy


def test_greedy_is_what_the_model_itself_generates(model: Model, model_dir: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(find_model(model_dir))
    plain = AutoModelForCausalLM.from_pretrained(find_model(model_dir))
    ids = tokenizer(PROMPTS[1], return_tensors="pt")["input_ids"]
    made = plain.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    answer = model.generate(asked(PROMPTS[1], temperature=0), later())[0]
    assert answer.text == PROMPTS[1] + tokenizer.decode(made, skip_special_tokens=True)


def test_answer_ends_where_the_model_ends_it(model: Model) -> None:
    end = model._end
    assert model._answer("a", [5, end, end]).finish_reason == "stop"
    assert model._answer("a", [5, end, end]).new_tokens == 1
    assert model._answer("a", [5, 6]).finish_reason == "length"


def test_prompt_that_does_not_fit_is_refused(model: Model) -> None:
    with pytest.raises(RequestError, match="128 positions") as caught:
        model.generate(asked("O", "O king " * 100), later())
    assert caught.value.status == 422
    room = asked("O", max_new_tokens=127, temperature=0)
    assert 1 <= model.generate(room, later())[0].new_tokens <= 127


def test_time_limit_ends_a_generation(model: Model) -> None:
    with pytest.raises(RequestError) as caught:
        model.generate(asked(*PROMPTS), time.monotonic() - 1)
    assert (caught.value.status, caught.value.code) == (408, "timeout")


def test_pickled_weights_are_not_loaded(model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(find_model(model_dir), folder)
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="safetensors"):
        find_model(tmp_path)
    with pytest.raises(OSError, match="safetensors"):
        Model(folder)


def test_find_model_takes_the_uppermost(model_dir: Path, tmp_path: Path) -> None:
    source = find_model(model_dir)
    shutil.copytree(source, tmp_path / "acpt-gpt2" / "3" / "model")
    shutil.copytree(source, tmp_path / "checkpoints" / "checkpoint-9")
    shutil.copytree(source, tmp_path / "acpt-gpt2" / "3" / "model" / "older")
    assert find_model(tmp_path) == tmp_path / "acpt-gpt2" / "3" / "model"
    shutil.copytree(source, tmp_path / "acpt-gpt2" / "3" / "other")
    with pytest.raises(ValueError, match="several"):
        find_model(tmp_path)


class _Held:
    """A model that answers when it is told to."""

    def __init__(self) -> None:
        self.started, self.go = threading.Semaphore(0), threading.Event()

    def generate(self, request: ScoreRequest, deadline: float) -> list[Answer]:
        self.started.release()
        assert self.go.wait(60)
        return [Answer(request.prompts[0], 0, "length")]


def http(content: bytes = b'{"prompt": "secret words"}', method: str = "POST") -> Request:
    return Request(EnvironBuilder(method=method, data=content).get_environ())


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def install(model: Any, **limits: Any) -> Callable[[Request], tuple[int, Any]]:
        monkeypatch.setattr(score, "_service", score.Service(model, Limits(**limits)))

        def run(request: Request) -> tuple[int, Any]:
            answer = score.run(request)
            return answer.status_code, json.loads(answer.get_data())

        return run

    return install


def test_requests_beyond_those_that_wait_are_refused(serve: Callable[..., Any]) -> None:
    held = _Held()
    run = serve(held, waiting=1)
    statuses: list[int] = []
    threads = [threading.Thread(target=lambda: statuses.append(run(http())[0])) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert held.started.acquire(timeout=60)
    while score._service._places._value:
        time.sleep(0.01)
    assert run(http()) == (
        429,
        {"error": {"code": "busy", "message": "too many requests wait; try again"}},
    )
    held.go.set()
    for thread in threads:
        thread.join(60)
    assert statuses == [200, 200]
    assert run(http())[0] == 200


def test_request_whose_turn_does_not_come_is_refused(serve: Callable[..., Any]) -> None:
    run = serve(_Held(), seconds=0.05)
    with score._service._turn:
        assert run(http())[0] == 503


def test_only_post_is_answered(serve: Callable[..., Any]) -> None:
    run = serve(_Held())
    for method in ("GET", "OPTIONS"):
        assert run(http(method=method)) == (
            405,
            {"error": {"code": "method", "message": "only POST is answered"}},
        )


def test_failure_is_logged_without_the_prompt(
    serve: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        def generate(self, request: ScoreRequest, deadline: float) -> list[Answer]:
            raise RuntimeError(f"cannot do {request.prompts}")

    status, answer = serve(Broken())(http())
    logged = capsys.readouterr().out
    assert (status, answer["error"]["code"]) == (500, "internal")
    assert "RuntimeError at" in logged
    assert "secret" not in logged + json.dumps(answer)
