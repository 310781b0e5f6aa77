from dataclasses import replace

import pytest

from hand_made import completion, make_failure, make_group
from mulligan.episodes.conversation import Conversations
from mulligan.errors import MulliganError
from mulligan.objectives.base import Evidence
from mulligan.objectives.registry import make_reward
from mulligan.tasks.base import Task
from mulligan.types import Problem, Verdict
from mulligan.verifiers.pool import InProcessVerifier
from parity_task import Parity
from tiny import said

BROKEN = Verdict.error("broke")


class Sayings(Parity):
    """An answer leaks where it holds the word; two are the same where their first letters are."""

    def leaks(self, problem, reflection):
        if "?" in reflection:
            raise RuntimeError("cannot say")
        return "secret" in reflection

    def same_answer(self, problem, one, other):
        if "?" in one + other:
            raise RuntimeError("cannot say")
        return one[:1] == other[:1]


class Yes(Task):
    """A task that cannot compare answers."""

    name = "yes"

    def problems(self, split):
        return []

    def verify(self, problem, answer):
        return Verdict.right() if answer == "yes" else Verdict.wrong()


def evidence(seed=0, **more):
    told = {"verifier": InProcessVerifier(Sayings()), "conversations": None}
    return Evidence(seed, **(told | {"likelihood": None, "certainty": None} | more))


def score(name, groups, seed=0, **options):
    return make_reward(name, options).score(groups, evidence(seed))


def saying(*texts):
    return [completion(number, text=text) for number, text in enumerate(texts)]


def test_verdict_is_one_for_a_pass_and_nothing_for_any_other():
    group = make_group([True, False, Verdict.unparseable()])
    assert score("verdict", [group]) == [[1.0, 0.0, 0.0]]


def test_without_leak_a_pass_counts_only_where_the_reflection_does_not_state_it():
    thoughts = saying("hm", "secret", "secret", "what?")
    group = make_group([True, True, False, True], reflections=thoughts)
    assert score("verdict_without_leak", [group]) == [[1.0, 0.0, 0.0, None]]


def test_shuffled_verdicts_are_the_same_ones_in_another_order():
    groups = [
        make_group([True, False, False, True, False], make_failure(name=f"f{n}")) for n in "ab"
    ]
    orders = {tuple(score("shuffled", groups, seed)[0]) for seed in range(20)}
    assert len(orders) > 5
    assert {sum(order) for order in orders} == {2.0}
    first, second = score("shuffled", groups, seed=3)
    assert [first, second] == score("shuffled", groups, seed=3)
    assert any(a != b for a, b in (score("shuffled", groups, seed) for seed in range(9)))


def test_random_rewards_are_a_seeded_coin_of_the_stated_rate():
    groups = [make_group([False] * 50, make_failure(name=f"f{number}")) for number in range(40)]
    drawn = score("random", groups, rate=0.25)
    assert drawn == score("random", groups, rate=0.25)
    assert drawn != score("random", groups, seed=1, rate=0.25)
    assert {value for row in drawn for value in row} == {0.0, 1.0}
    # 2,000 coins: the standard deviation of their mean is 0.0097
    assert sum(map(sum, drawn)) / 2000 == pytest.approx(0.25, abs=0.04)


@pytest.mark.parametrize("rate", [0, 1, -0.5, 2])
def test_a_coin_that_always_falls_the_same_way_is_refused(rate):
    with pytest.raises(MulliganError, match="above 0 and below 1"):
        make_reward("random", {"rate": rate})


def test_format_rewards_what_can_be_read_right_or_wrong():
    group = make_group([True, False, Verdict.unparseable()])
    assert score("format", [group]) == [[1.0, 1.0, 0.0]]


def test_inverted_rewards_what_fails():
    group = make_group([True, False, Verdict.unparseable()])
    assert score("inverted", [group]) == [[0.0, 1.0, 1.0]]


@pytest.mark.parametrize(
    ("answers", "verdicts", "expected"),
    [
        (("ax", "b", "ay", "c"), [False] * 4, [1.0, 0.0, 1.0, 0.0]),
        (("a", "b"), [True, False], [1.0, 1.0]),
        (("a", "b", "b"), [True, False, False], [0.0, 1.0, 1.0]),
        (("x", "x", "b"), [Verdict.unparseable()] * 2 + [False], [0.0, 0.0, 1.0]),
        (("x", "y"), [Verdict.unparseable()] * 2, [0.0, 0.0]),
        (("a", "?", "a"), [False] * 3, [None, None, None]),
    ],
)
def test_majority_rewards_the_answer_that_most_give(answers, verdicts, expected):
    group = make_group(verdicts, retries=saying(*answers))
    assert score("majority", [group]) == [expected]


def test_majority_asks_for_a_task_that_compares_answers():
    majority = make_reward("majority", {})
    majority.check(Sayings(), [])
    with pytest.raises(MulliganError, match=r"'yes' cannot say.*same_answer"):
        majority.check(Yes(), [])


def test_an_option_that_a_reward_does_not_have_is_refused_by_name():
    with pytest.raises(MulliganError, match=r"'random' has no option 'rat'.*did you mean 'rate'"):
        make_reward("random", {"rat": 0.5})
    with pytest.raises(MulliganError, match=r"'verdict' has no option 'rate'.*options: none"):
        make_reward("verdict", {"rate": 0.5})


def test_the_same_problem_is_asked_about_that_was_answered():
    problem = Problem.create("another", {})
    seen = []

    class Noting(Sayings):
        def leaks(self, problem, reflection):
            seen.append(problem)
            return False

    group = make_group([True, False], make_failure(problem))
    noted = evidence(verifier=InProcessVerifier(Noting()))
    make_reward("verdict_without_leak", {}).score([group], noted)
    assert seen == [problem]


@pytest.mark.parametrize(
    ("of", "expected"), [("reflection", [1008.0, 1006.0]), ("retry", [10 * 10 + 7.0] * 2)]
)
def test_self_certainty_is_that_of_the_reflection_or_of_the_retry(of, expected):
    """The stand-in of a policy is as certain as tokens and prompt say."""
    thoughts = [completion(8), completion(6)]
    group = make_group([True, False], prompt_ids=(1,) * 100, reflections=thoughts)
    retries = tuple((1,) * 10 for _ in thoughts)
    group = replace(group, retry_prompts_G=retries)

    def certainty(prompt_ids, completions):
        return [10.0 * len(prompt_ids) + sum(ids) for ids in completions]

    found = make_reward("self_certainty", {"of": of}).score([group], evidence(certainty=certainty))
    assert found == [expected]


def test_self_certainty_is_of_nothing_else():
    with pytest.raises(MulliganError, match="the reflection or the retry, not 'answer'"):
        make_reward("self_certainty", {"of": "answer"})


def test_reference_is_how_much_likelier_the_answer_became(tiny_tokenizer):
    speak = Conversations(tiny_tokenizer, "Why?")
    problem = Problem.create("question", {}, reference="right")
    failure = make_failure(problem)
    failure = replace(
        failure, attempt=replace(failure.attempt, completion=said(tiny_tokenizer, "no"))
    )
    thoughts = [said(tiny_tokenizer, "Add."), said(tiny_tokenizer, "Multiply."), completion()]
    group = make_group([True] * 3, failure, reflections=thoughts)
    asked = []

    def likelihood(prompt_ids, completions):
        asked.append(prompt_ids)
        assert completions == [speak.written("right").token_ids]
        return [-float(len(prompt_ids))]

    found = make_reward("reference", {}).score(
        [group], evidence(likelihood=likelihood, conversations=speak)
    )
    without = speak.retry_without_reflection(problem, failure.attempt.completion)
    after = [speak.retry(problem, failure.attempt.completion, thought) for thought in thoughts[:2]]
    assert asked == [without, *after]
    assert found == [[len(without) - len(prompt) for prompt in after] + [None]]


def test_reference_asks_for_problems_with_a_reference():
    reference = make_reward("reference", {})
    reference.check(Yes(), [Problem.create("a", {}, reference="yes")])
    with pytest.raises(MulliganError, match=r"1 training problems of 'yes' have none"):
        reference.check(Yes(), [Problem.create("a", {}), Problem.create("b", {}, reference="yes")])
