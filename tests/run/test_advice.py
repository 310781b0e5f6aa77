from dataclasses import replace

import pytest

from mulligan.episodes.collect import Collected
from mulligan.run.advice import on_collected, on_learning_rate
from mulligan.types import Attempt, Completion, Failure, Problem, Sampling, Verdict
from tiny import run_cli, tiny_recipe, write_recipe

LORA = {"rank": 2, "alpha": 4}


def failure(finish_reason):
    problem = Problem.create("?", {})
    tried = Attempt(problem, (1,), Completion((2,), "x", finish_reason), Verdict.wrong())
    return Failure(finish_reason, tried, "tiny", Sampling(0.9, 5))


@pytest.mark.parametrize(
    ("parameters", "rate", "lora", "warned"),
    [
        (1_500_000_000, 1e-5, None, True),
        (1_500_000_000, 5e-6, None, False),
        (1_500_000_000, 1e-4, LORA, False),
        (135_000_000, 1e-4, None, False),
    ],
)
def test_a_high_learning_rate_is_warned_of_where_all_of_a_large_model_is_trained(
    parameters, rate, lora, warned
):
    recipe = tiny_recipe(lora=lora)
    recipe = recipe.model_copy(
        update={"train": recipe.train.model_copy(update={"learning_rate": rate})}
    )
    says = on_learning_rate(recipe, parameters)
    assert (says is not None) == warned
    assert not warned or "train.learning_rate=5e-7" in says


def test_nothing_or_everything_that_passes_is_warned_of():
    line = Collected(0, 8, 0, 5, 3, 0)
    [says] = on_collected([line], [failure("stop")])
    assert "None of 8 first tries passed (3 could not be read)" in says
    [says] = on_collected([replace(line, passed=8, failed=0, unparseable=0)], [])
    assert "All 8 first tries passed" in says
    assert on_collected([replace(line, passed=1)], [failure("stop")]) == []


def test_answers_that_are_mostly_cut_off_are_warned_of():
    line = Collected(0, 4, 1, 3, 0, 0)
    [says] = on_collected([line], [failure("length"), failure("length"), failure("stop")])
    assert "2 of 3 failed answers were cut off" in says
    assert "generate.answer_tokens" in says


def test_a_run_says_that_its_reflections_are_cut_off(tiny_llama, tmp_path, caplog):
    recipe = write_recipe(tmp_path, tiny_llama, sft=None, warmup=None)
    outcome = run_cli("run", recipe, "--runs", tmp_path)
    assert outcome.code == 0, outcome.err
    assert "Raise generate.reflection_tokens" in caplog.text
