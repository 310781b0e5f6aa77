from contextlib import contextmanager

import pytest

from mulligan.engines.scripted import ScriptedEngine
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.failures import FailureStore
from mulligan.errors import MulliganError
from mulligan.storage.records import RecordLog
from mulligan.trainer.failure_sources import OnlineFailures, StepTries, step_tries_key
from mulligan.types import Problem, Verdict
from tiny import tiny_recipe

PROBLEMS = [Problem.create(f"question {number}", {}) for number in range(8)]
VERDICTS = {"yes": Verdict.right(), "no": Verdict.wrong(), "crash": Verdict.error("broke")}


@pytest.fixture
def online(tmp_path, tiny_tokenizer):
    """Opens a source whose policy answers by a script, in one folder."""

    @contextmanager
    def opened(answers, problems=PROBLEMS):
        def script(prompt, i, j):
            asked = tiny_tokenizer.decode(prompt)
            return answers(next(n for n in range(8) if f"question {n}" in asked))

        with (
            FailureStore(tmp_path / "failures.jsonl") as store,
            RecordLog(tmp_path / "collected.jsonl", StepTries, step_tries_key) as log,
        ):
            yield OnlineFailures(
                ScriptedEngine(script, tiny_tokenizer),
                Conversations(tiny_tokenizer, "Why?"),
                lambda pairs: [VERDICTS[text] for _, text in pairs],
                problems,
                tiny_recipe(),
                store,
                log,
            )

    return opened


def numbers(failures):
    return [PROBLEMS.index(failure.attempt.problem) for failure in failures]


def test_problems_are_tried_until_a_step_has_its_failures(online):
    with online(lambda number: "no" if number % 2 else "yes") as source:
        failures = source.batch(1)
        assert len(failures) == 3
        assert all(number % 2 for number in numbers(failures))
        assert sum(line.failed for line in source.log) >= 3
        assert all(line.attempts == line.passed + line.failed for line in source.log)
        assert [line.chunk for line in source.log] == list(range(len(source.log)))


def test_only_what_is_trained_on_is_stored_with_the_seed_that_drew_it(online):
    with online(lambda number: "no") as source:
        first, second = source.batch(1), source.batch(2)
        assert list(source.store) == [*first, *second]
        assert len({failure.sampling.seed for failure in [*first, *second]}) == 2


def test_a_repeated_step_tries_the_same_and_stores_nothing_twice(online, tmp_path):
    with online(lambda number: "no" if number > 2 else "yes") as source:
        first = source.batch(1)
    written = [path.read_bytes() for path in sorted(tmp_path.glob("*.jsonl"))]
    with online(lambda number: "no" if number > 2 else "yes") as source:
        assert source.batch(1) == first
    assert [path.read_bytes() for path in sorted(tmp_path.glob("*.jsonl"))] == written


def test_every_step_has_an_order_of_its_own(online):
    with online(lambda number: "no") as source:
        orders = {tuple(numbers(source.batch(step))) for step in range(1, 6)}
    assert len(orders) > 1


def test_a_step_makes_do_with_fewer_failures_where_no_problem_is_left(online):
    with online(lambda number: {3: "no", 4: "crash"}.get(number, "yes")) as source:
        assert numbers(source.batch(1)) == [3]
        assert sum(line.attempts for line in source.log) == 8
        assert sum(line.errors for line in source.log) == 1


def test_a_refill_leaves_out_problems_that_the_step_has_failures_on(online):
    with online(lambda number: "no") as source:
        seen = source.batch(1)
        others = source.others(seen, 8, 1, 0)
    assert sorted(numbers(seen) + numbers(others)) == list(range(8))


def test_nothing_to_learn_from_is_said(online):
    with (
        online(lambda number: "yes") as source,
        pytest.raises(MulliganError, match=r"in step 2 the policy passes all of the 8 problems"),
    ):
        source.batch(2)
