import numpy as np
import pytest
from bench import PROBLEMS, make_bench

from mulligan.study.examine.worth import WorthRow, ask, names_numbers, summarise, variance_within


def script(asked, turn, reflecting, text, j):
    if turn == 1:
        return ["yes", "no", "no", "crash"][asked]
    if reflecting:
        return ["yes 1 is it", "hm", "hm", "2 + 2"][j]
    if "hm" in text:
        return "no"
    if "yes" in text or "2 + 2" in text:
        return ["yes", "no", "crash", "no"][j % 4]
    return "yes" if j < 4 else "no"  # asked again


def test_the_worth_of_a_reflection_is_the_share_of_judged_retries_that_pass(tiny_tokenizer):
    likelihood = lambda prompt, completions: [-2.0 * len(ids) for ids in completions]  # noqa: E731
    rows = list(ask(make_bench(tiny_tokenizer, script, likelihood), PROBLEMS, 0))
    assert [(row.problem_id, row.number) for row in rows] == [
        (PROBLEMS[at].id, number) for at in (1, 2) for number in range(4)
    ]
    leaking, empty, _, calculating = rows[:4]
    assert (leaking.passed, leaking.judged, leaking.worth) == (4, 12, pytest.approx(1 / 3))
    assert (empty.passed, empty.judged) == (0, 16)
    assert (leaking.again_passed, leaking.again_judged) == (4, 16)
    assert leaking.features == {
        "leaks": 1.0,
        "tokens": 1.2,  # eleven letters and the end of the turn
        "cut_off": 0.0,
        "names_numbers": 1.0,  # of "question 1"
        "calculates": 0.0,
        "likelihood": -1.0,
        "original_likelihood": -2.0,
    }
    assert (calculating.features["calculates"], calculating.features["names_numbers"]) == (1, 0)


def row(problem, number, passed, **features):
    known = dict.fromkeys(("leaks", "cut_off", "names_numbers", "calculates"), 0.0)
    other = dict.fromkeys(("tokens", "likelihood", "original_likelihood"))
    return WorthRow("after", problem, number, passed, 16, 2, 16, {**known, **other, **features})


def test_reflections_are_compared_with_others_on_the_same_failure():
    rows = [
        *(
            row("easy", n, passed, leaks=leaks)
            for n, (passed, leaks) in enumerate([(16, 1), (8, 0)])
        ),
        *(
            row("hard", n, passed, leaks=leaks)
            for n, (passed, leaks) in enumerate([(4, 1), (0, 0)])
        ),
    ]
    found = {each.name: each.mean for each in summarise({"run": rows}, "after")}
    # A leak is worth 8 and 4 of 16 retries, whatever the problems are worth themselves.
    assert found["worth_by_leaks"] == pytest.approx((0.5 + 0.25) / 2)
    assert found["worth"] == pytest.approx(28 / 64)
    assert found["adds"] == pytest.approx(28 / 64 - 2 / 16)
    assert found["share_leaks"] == 0.5
    assert "worth_by_tokens" not in found


def test_the_luck_of_retries_is_no_difference_between_reflections():
    random = np.random.default_rng(1)
    equal = [row(str(f), n, int(random.binomial(16, 0.4))) for f in range(600) for n in range(4)]
    assert variance_within(equal) == pytest.approx(0.0, abs=0.001)
    # Half of the reflections are worth 0.2, half 0.6: a variance of 0.04 * 4/3 between four.
    different = [
        row(str(f), n, int(random.binomial(16, [0.2, 0.6][n % 2])))
        for f in range(600)
        for n in range(4)
    ]
    assert variance_within(different) == pytest.approx(0.04 * 4 / 3, abs=0.004)
    assert variance_within(different[:1]) is None


def test_a_text_names_a_share_of_the_numbers_in_the_question():
    assert names_numbers("Make 24 from 3, 8.", "38 is 8 and 24") == pytest.approx(2 / 3)
    assert names_numbers("Say hello.", "8") is None
