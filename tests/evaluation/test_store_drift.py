import pytest

from mulligan.engines.scripted import ScriptedEngine
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.failures import FailureStore
from mulligan.evaluation.store_drift import StoreDrift, measure_drift, sample_of
from mulligan.types import Attempt, Completion, Failure, Problem, Sampling, Verdict
from tiny import tiny_recipe

PROBLEMS = [Problem.create(f"question {number}", {}) for number in range(9)]


@pytest.fixture
def store(tmp_path):
    with FailureStore(tmp_path / "failures.jsonl") as failures:
        for number, problem in enumerate(PROBLEMS):
            tried = Attempt(problem, (1,), Completion((2,), "no", "stop"), Verdict.wrong())
            failures.append(Failure(str(number), tried, "tiny", Sampling(0.9, 5)))
        yield failures


def test_a_sample_is_the_same_each_time_and_holds_no_failure_twice(store):
    drawn = sample_of(store, 4, seed=1)
    assert drawn == sample_of(store, 4, seed=1) != sample_of(store, 4, seed=2)
    assert len({problem.id for problem in drawn}) == 4
    assert {problem.id for problem in sample_of(store, 100, seed=1)} == {p.id for p in PROBLEMS}


def test_the_share_that_would_pass_leaves_out_what_could_not_be_judged(tiny_tokenizer):
    verdicts = {"y": Verdict.right(), "n": Verdict.wrong(), "c": Verdict.error("broke")}
    engine = ScriptedEngine(list("yyncynnyn"), tiny_tokenizer)
    found = measure_drift(
        engine,
        Conversations(tiny_tokenizer, "Why?"),
        lambda pairs: [verdicts[text] for _, text in pairs],
        PROBLEMS,
        tiny_recipe(),
        step=3,
    )
    assert found == StoreDrift(step=3, passed=4, judged=8)
    assert found.share.value == 0.5
    assert [len(call.prompts) for call in engine.calls] == [8, 1]
    assert StoreDrift(0, 0, 0).share is None
