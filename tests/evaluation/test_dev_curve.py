import pytest

from mulligan.evaluation.dev_curve import Standing, dev_curve, standing
from mulligan.types import Answer, Trial, Verdict

VERDICTS = {"1": Verdict.right(), "0": Verdict.wrong(), "e": Verdict.error("broke")}


def answer(mark):
    return Answer("said", VERDICTS[mark], 3, "stop")


def trials(step, rows):
    """A trial per row: first try, after reflection, asked again, such as ``010``."""
    for number, (first, reflected, nothing) in enumerate(rows):
        failed = first == "0"
        yield Trial(
            f"problem-{number}",
            0,
            f"step-{step}",
            "question",
            answer(first),
            after_reflection=answer(reflected) if failed else None,
            second_tries={"nothing": answer(nothing)} if failed else {},
        )


def test_the_curve_has_rates_and_what_reflection_adds_at_each_step_hand_computed():
    rows = [*trials(20, ["010", "011", "1..", "000"]), *trials(0, ["000", "001", "1..", "0e1"])]
    before, after = dev_curve(rows)
    assert (before.step, after.step) == (0, 20)
    assert before.first_try.value == 1 / 4
    assert before.after_reflection.value == pytest.approx(1 / 3)  # one verifier broke
    assert before.after_nothing.value == 3 / 4
    assert before.reflection_over_nothing.value == pytest.approx(-1 / 3)
    assert after.after_reflection.value == 3 / 4
    assert after.after_nothing.value == 2 / 4
    assert after.reflection_over_nothing.value == 1 / 4
    for rate in (after.first_try, after.after_reflection, after.reflection_over_nothing):
        assert rate.low <= rate.value <= rate.high
        assert rate.high - rate.low > 0.2


def test_the_best_step_solves_more_after_reflection_than_every_trained_step_before():
    rows = [
        *trials(0, ["1..", "1.."]),  # the untrained model is no checkpoint to choose
        *trials(10, ["000", "010"]),
        *trials(20, ["010", "010"]),
        *trials(30, ["010", "010"]),
        *trials(40, ["000", "000"]),
    ]
    assert standing(rows, 0) == Standing(False, 0)
    assert standing(rows, 10) == Standing(True, 0)
    assert standing(rows, 20) == Standing(True, 0)
    assert standing(rows, 30) == Standing(False, 1)  # as good as the best is not better
    assert standing(rows, 40) == Standing(False, 2)


def test_a_curve_of_nothing_is_empty():
    assert dev_curve([]) == []
