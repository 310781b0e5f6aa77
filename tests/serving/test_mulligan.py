import asyncio
import shutil
import subprocess
import sys

import pytest

import mulligan
from model_server import serving
from mulligan import Mulligan, MulliganError, Problem
from mulligan.config import Generate, ServerEngine
from tiny import TASK_FILE

PROBLEM = Problem.create("Say something even.", {})
SHORT = Generate(answer_tokens=5, reflection_tokens=6)


def test_importing_the_package_needs_no_torch():
    code = "import mulligan, sys; print('torch' in sys.modules, 'transformers' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]


def test_the_package_names_what_it_does_not_have():
    with pytest.raises(AttributeError, match="no attribute 'Muligan'"):
        mulligan.Muligan  # noqa: B018


def test_a_run_answers_with_its_trained_model_and_its_own_words(tiny_run):
    with Mulligan.load(tiny_run, tries=3) as loaded:
        solution = loaded.answer(PROBLEM)
        again = loaded.answer(PROBLEM)
    assert solution.events == again.events
    assert solution.events[0].completion.length <= 5
    assert solution.passed == (solution.verdict.status == "passed")


def test_before_its_training_a_run_answers_with_its_warmed_up_model_and_says_so(
    tiny_run, tmp_path, caplog
):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    with Mulligan.load(run) as trained:
        expected = trained.answer(PROBLEM)
    shutil.copy(run / "checkpoints" / "step-4" / "model.safetensors", run / "warmed_up")
    shutil.rmtree(run / "checkpoints")
    with Mulligan.load(run) as warmed_up:
        assert warmed_up.answer(PROBLEM) == expected
    assert "is not trained yet: its warmed-up model answers" in caplog.text


def test_answers_of_a_model_that_is_no_run_need_a_task(tiny_llama):
    with pytest.raises(MulliganError, match="give one by task="):
        Mulligan.load(tiny_llama)
    with Mulligan.load(tiny_llama, task=str(TASK_FILE), generate=SHORT) as loaded:
        solutions = loaded.answer_all([PROBLEM] * 8, seed=3)
    assert {each.tries for each in solutions} == {1, 2}
    for each in solutions:
        assert each.passed == (bool(each.answer.strip()) and sum(map(ord, each.answer)) % 2 == 0)


def test_no_tries_are_refused(tiny_llama):
    with pytest.raises(MulliganError, match="at least one try, not tries=0"):
        Mulligan.load(tiny_llama, task=str(TASK_FILE), tries=0)


def test_what_happens_comes_as_a_stream_that_equals_the_answer(tiny_llama):
    async def collected(loaded):
        return [event async for event in loaded.stream(PROBLEM)]

    async def twice(loaded):
        return await asyncio.gather(collected(loaded), collected(loaded))

    options = {"verdict": "failed"}
    with Mulligan.load(
        tiny_llama, task=str(TASK_FILE), task_options=options, generate=SHORT
    ) as loaded:
        one, other = asyncio.run(twice(loaded))
        solution = loaded.answer(PROBLEM)
    assert [event.kind for event in one] == ["attempt", "reflection", "retry"]
    assert tuple(one) == tuple(other) == solution.events


def test_a_server_generates_where_one_is_named(tiny_llama):
    with (
        serving(tiny_llama, ids=False) as server,
        Mulligan.load(
            "tiny",
            task=str(TASK_FILE),
            task_options={"verdict": "failed"},
            generate=SHORT,
            server=ServerEngine(kind="server", url=server.url, model="tiny"),
        ) as loaded,
    ):
        solution = loaded.answer(PROBLEM)
        asked = [body for path, body in server.requests if path == "/v1/chat/completions"][-3:]
    assert solution.tokens == sum(event.completion.length for event in solution.events) > 0
    first, *_, last = (event.prompt_tokens for event in solution.events)
    assert last > first > len("Say something even.")  # as the server counted them
    assert [len(body["messages"]) for body in asked] == [1, 3, 5]
    assert [body["max_tokens"] for body in asked] == [5, 6, 5]
