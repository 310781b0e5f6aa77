import pytest
from bench import PROBLEMS, make_bench

from mulligan.errors import MulliganError
from mulligan.study.examine.right_answers import RightAnswerRow, ask, summarise


def script(asked, turn, reflecting, text, j):
    if turn == 1:
        return ["yes", "yes", "no", "crash"][asked]
    if reflecting:
        return "hm"
    if "hm" in text:  # after a reflection
        return ["no", "yes", "yes", "no"][asked]
    return ["yes", "crash", "no", "no"][asked]


def test_right_answers_are_reflected_on_as_wrong_ones_are(tiny_tokenizer):
    rows = list(ask(make_bench(tiny_tokenizer, script), PROBLEMS, 0))
    ids = [problem.id for problem in PROBLEMS]
    assert rows == [
        RightAnswerRow("after", ids[0], first=True, reflected=False, again=True),
        RightAnswerRow("after", ids[1], first=True, reflected=True, again=None),
        RightAnswerRow("after", ids[2], first=False, reflected=True, again=False),
    ]


def test_what_is_spoilt_and_what_is_fixed_are_shares_of_right_and_of_wrong_first_tries(
    tiny_tokenizer,
):
    rows = list(ask(make_bench(tiny_tokenizer, script), PROBLEMS, 0))
    found = {each.name: each.mean for each in summarise({"run": rows}, "after")}
    assert found == pytest.approx(
        {
            "first_try": 2 / 3,
            "spoilt": 1 / 2,
            "spoilt_again": 0,
            "fixed": 1,
            "fixed_again": 0,
            "gain": 0,  # one spoilt, one fixed, of three
            "gain_again": 0,
            "without_verifier": -1 / 3,  # a verifier would have kept the one that was spoilt
        }
    )


def test_a_request_that_tells_the_verdict_leaves_nothing_to_examine(tiny_tokenizer):
    bench = make_bench(tiny_tokenizer, script, prompts={"reflect": "{reason}. Why?"})
    with pytest.raises(MulliganError, match="never reflects without one"):
        list(ask(bench, PROBLEMS, 0))
