from importlib.util import find_spec

import pytest

from mulligan.episodes.conversation import Conversations
from mulligan.errors import MulliganError
from mulligan.evaluation.forgetting.choices import Item, choose, elsewhere, items_of
from mulligan.logprobs.shared_prompt import plain_logprobs
from mulligan.models.load import load_model
from mulligan.tasks.base import Task
from mulligan.tasks.registry import load_task
from mulligan.types import Problem, Verdict


def verify_with(task):
    return lambda pairs: [task.verify(problem, answer) for problem, answer in pairs]


def test_a_task_with_demonstrated_mistakes_sets_right_against_wrong():
    task = load_task("countdown")

    items = items_of(task, verify_with(task), 20, seed=3)

    assert len(items) == 20
    for item in items:
        right, wrong = item.options
        assert task.verify(item.problem, right).passed
        assert not task.verify(item.problem, wrong).passed
    assert len({item.problem.id for item in items}) == 20
    assert items == items_of(task, verify_with(task), 20, seed=3)


def test_a_task_with_references_only_takes_other_problems_answers_that_fail():
    task = load_task("reasoning_gym:gcd", {"test_size": 30})

    items = items_of(task, verify_with(task), 10, seed=3)

    for item in items:
        assert item.options[0] == item.problem.reference
        assert 2 <= len(item.options) <= 4
        assert [task.verify(item.problem, option).passed for option in item.options] == [
            True,
            *[False] * (len(item.options) - 1),
        ]


@pytest.mark.skipif(find_spec("bfcl_eval") is None, reason="needs the data files of bfcl-eval")
def test_function_calling_sets_a_right_call_against_a_wrong_one():
    task = load_task("bfcl")

    items = items_of(task, verify_with(task), 12, seed=3)

    assert len(items) == 12
    assert all(item.problem.tools for item in items)
    for item in items:
        right, wrong = item.options
        assert task.verify(item.problem, right).passed
        assert task.verify(item.problem, wrong).status == "failed"


class Bare(Task):
    """Neither references nor demonstrations."""

    name = "bare"

    def problems(self, split):
        yield Problem.create("1?", {})

    def verify(self, problem, answer):
        return Verdict.wrong()


def test_a_task_with_neither_is_refused():
    with pytest.raises(MulliganError, match="no references and no demonstrations"):
        items_of(Bare(), verify_with(Bare()), 5, seed=0)


def test_the_choice_is_the_answer_of_the_largest_log_likelihood_per_byte(tiny_llama):
    model, tokenizer = load_model(str(tiny_llama), device="cpu")
    conversations = Conversations(tokenizer, "Why?")
    problem = Problem.create("2 + 2?", {})
    options = ("four", "a much longer answer", "5")
    prompt = conversations.attempt(problem)
    likely = {}
    for option in options:
        ids = conversations.written(option).token_ids
        row, _ = plain_logprobs(model, prompt, [ids])
        likely[option] = row.sum().item() / len(option.encode())
    best = max(likely, key=likely.__getitem__)

    for right in options:
        others = tuple(option for option in options if option != right)
        items = [Item(problem, (right, *others))]
        [outcome] = choose({"original": model}, conversations, "sum", items)
        assert outcome.passed == {"original": right == best}
        assert outcome.chance == pytest.approx(1 / 3)


def test_countdown_runs_are_asked_about_function_calling_and_the_reverse():
    assert elsewhere("countdown")[-1] == "bfcl"
    assert elsewhere("bfcl")[-1] == "countdown"
