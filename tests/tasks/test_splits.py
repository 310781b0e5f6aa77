from collections import Counter
from hashlib import sha256
from itertools import islice

import pytest

from mulligan.errors import MulliganError
from mulligan.tasks.base import Task
from mulligan.tasks.countdown.task import Countdown
from mulligan.tasks.reasoning_gym import ReasoningGym
from mulligan.tasks.splits import check_shares, first_problems, require_split, split_of
from mulligan.types import Problem, Verdict

DEMO = {
    "counts": {2: 0.75, 3: 0.2, 4: 0.05},
    "largest_number": 25,
    "largest_target": 50,
    "operators": "+-*",
    "test_size": 400,
    "test_share": 0.45,
    "answer_share": 0.32,
    "reflection_shares": {
        "vague": 0.65,
        "diagnosing": 0.08,
        "searching": 0.03,
        "searching_right": 0.24,
    },
    "system": "Reach the target with + - *, using each number once. Answer with one equation.",
    "question": "Make {target} from {numbers}.",
}
"""The options of the demo's recipe in version 0.1.0."""


def test_the_shares_are_the_ones_asked_for():
    found = Counter(split_of(3, f"{i}", test_share=0.3, dev_share=0.1) for i in range(10_000))
    assert found["test"] / 10_000 == pytest.approx(0.3, abs=0.02)
    assert found["dev"] / 10_000 == pytest.approx(0.1, abs=0.01)


def test_a_share_of_nothing_holds_nothing_out_and_one_of_all_everything():
    assert {split_of(i, test_share=0.0) for i in range(100)} == {"train"}
    assert {split_of(i, test_share=1.0) for i in range(100)} == {"test"}


def test_the_dev_split_is_taken_out_of_training_only():
    for i in range(1000):
        without = split_of(i, test_share=0.3)
        with_dev = split_of(i, test_share=0.3, dev_share=0.2)
        assert with_dev == without or (without, with_dev) == ("train", "dev")


def test_the_division_is_the_same_everywhere():
    held_out = [
        i for i in range(12) if split_of(0, "test", f"cluster {i}", test_share=0.5)[1] == "e"
    ]
    assert held_out == [0, 2, 3, 4, 5, 6, 7, 9, 11]


@pytest.mark.parametrize("shares", [(-0.1, 0), (0.3, 1.2), (0.5, 0.5)])
def test_shares_that_leave_nothing_to_train_on_are_refused(shares):
    with pytest.raises(MulliganError, match=r"between 0 and 1|leave nothing to train on"):
        check_shares("my_task", *shares)


class Old(Task):
    """A task as users wrote it before there was a dev split: what is not test is training."""

    name = "old"
    safe = True

    def problems(self, split):
        for number in range(5):
            yield Problem.create(f"{number + 100 * (split == 'test')}", {})

    def verify(self, problem, answer):
        return Verdict.right()


def test_a_task_that_knows_no_dev_split_is_never_asked_for_one():
    with pytest.raises(MulliganError, match=r"'old' has no dev split\. Use evaluate\.split: test"):
        first_problems(Old(), "dev", 3)
    assert len(first_problems(Old(), "test", 3)) == 3


def test_more_problems_than_a_split_has_are_refused_with_their_number():
    with pytest.raises(MulliganError, match="has 5 train problems, and the recipe asks for 6"):
        first_problems(Old(), "train", 6)


@pytest.mark.parametrize(
    "task", [Countdown(), ReasoningGym("chain_sum", train_size=5, test_size=5)]
)
def test_an_installed_task_says_which_option_makes_its_dev_split(task):
    with pytest.raises(MulliganError, match=r"task_options\.dev_(share|size)"):
        require_split(task, "dev")


@pytest.mark.parametrize(
    "task",
    [
        Countdown(dev_share=0.2, dev_size=50, test_size=50, train_size=50),
        ReasoningGym("coin_flip", train_size=60, dev_size=9, test_size=9, max_trials=4),
    ],
)
def test_no_problem_is_in_two_splits(task):
    ids = {split: {p.id for p in task.problems(split)} for split in task.splits}
    assert all(ids.values())
    assert sum(map(len, ids.values())) == len(set.union(*ids.values()))


def digest(texts):
    return sha256("\n".join(texts).encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("seed", "train", "test", "demonstrations"),
    [
        (0, "011530183d869ada", "4a5e45ee2a0554ff", "583a3422f410b392"),
        (11, "d5d426a6202f18b3", "c21b5b509e0f5453", "e37306a8542701e7"),
    ],
)
def test_the_demo_of_version_0_1_0_draws_what_it_drew(seed, train, test, demonstrations):
    task = Countdown(**DEMO, seed=seed)
    assert digest(p.id for p in islice(task.problems("train"), 256)) == train
    assert digest(p.id for p in task.problems("test")) == test
    shown = task.demonstrations(680, 7)
    texts = (f"{d.problem.id}{d.attempt}{d.reflection}{d.retry}" for d in shown)
    assert digest(texts) == demonstrations
