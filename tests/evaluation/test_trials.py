import pytest

from mulligan.evaluation.scores import judged
from mulligan.evaluation.trials import open_trials, read_trials
from mulligan.storage.records import encode
from mulligan.types import Answer, Trial, Verdict

RIGHT = Answer("2 + 2", Verdict.right(), 5, "stop")
WRONG = Answer("2 + 3", Verdict.wrong("missed_target"), 5, "stop")
BROKEN = Answer("2 + 2", Verdict.error("timeout"), 5, "stop")

OLD_LINE = (
    b'{"schema":1,"problem_id":"a","sample":0,"when":"before","question":"q",'
    b'"first_try":{"text":"1","verdict":{"status":"failed","reason":"odd","detail":""},'
    b'"tokens":2,"finish_reason":"stop"},"reflection":"hm","reflection_tokens":3,"leaked":true,'
    b'"after_reflection":null,"after_nothing":{"text":"2","verdict":{"status":"passed",'
    b'"reason":"passed","detail":""},"tokens":2,"finish_reason":"stop"},'
    b'"after_other_reflection":null}\n'
)


def test_a_line_of_version_0_1_0_keeps_its_controls(tmp_path):
    (tmp_path / "before.jsonl").write_bytes(OLD_LINE)
    with open_trials(tmp_path / "before.jsonl") as log:
        (trial,) = log
    assert set(trial.second_tries) == {"nothing"}
    assert trial.second_tries["nothing"].verdict.passed
    assert trial.first_try.logprob is None


def test_trials_are_read_before_after_and_then_other_models(tmp_path):
    (tmp_path / "evaluation").mkdir()
    for when in ("zeta", "before", "bigger"):
        line = encode(Trial("a", 0, when, "q", RIGHT))
        (tmp_path / "evaluation" / f"{when}.jsonl").write_bytes(line)
    found = read_trials(tmp_path)
    assert list(found) == ["before", "after", "bigger", "zeta"]
    assert found["after"] == ()
    assert found["zeta"][0].when == "zeta"


@pytest.mark.parametrize(
    ("retry", "second", "expected"),
    [(RIGHT, None, True), (WRONG, RIGHT, True), (WRONG, WRONG, False), (BROKEN, None, None)],
)
def test_a_second_reflection_counts_as_passed_where_the_retry_did(retry, second, expected):
    tries = {"second_reflection": second} if second else {}
    trial = Trial("a", 0, "after", "q", WRONG, after_reflection=retry, second_tries=tries)
    assert judged(trial, "after_second_reflection") is expected


def test_a_greedy_try_is_judged_by_itself():
    trial = Trial("a", 0, "after", "q", RIGHT, greedy=WRONG)
    assert judged(trial, "greedy") is False
    assert judged(trial, "first_try") is True
