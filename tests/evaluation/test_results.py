from dataclasses import replace

import pytest

from mulligan.config import Endpoints
from mulligan.errors import MulliganError
from mulligan.evaluation.results import compute, difference_of
from mulligan.evaluation.scores import check_endpoints
from mulligan.evaluation.statistics import holm, wilson
from mulligan.evaluation.trials import Plan, plan_of
from mulligan.types import Answer, Trial, Verdict

RIGHT = Answer("2 + 2", Verdict.right(), 4, "stop", logprob=-0.5)
WRONG = Answer("2 + 3", Verdict.wrong("missed_target"), 6, "stop", logprob=-1.0)
UNREADABLE = Answer("dunno", Verdict.unparseable("no_equation"), 6, "stop", logprob=-2.0)
BROKEN = Answer("2 + 2", Verdict.error("timeout"), 6, "stop")


def solved(problem, when="before", sample=0):
    return Trial(problem, sample, when, "q", RIGHT)


def failed(problem, when="before", reflected=WRONG, nothing=WRONG, first=WRONG, leaked=False):
    return Trial(
        problem,
        0,
        when,
        "q",
        first,
        reflection="hm",
        reflection_tokens=10,
        reflection_logprob=-0.25,
        leaked=leaked,
        after_reflection=reflected,
        second_tries={"nothing": nothing} if nothing else {},
    )


def both(before, after):
    return {"before": before, "after": after}


def test_what_reflection_adds_is_a_difference_in_differences():
    # Before: asked again solves one that reflection does not (-1). After: two the other way (+2).
    made = compute(
        both(
            [solved("a"), failed("b", nothing=RIGHT), failed("c"), failed("d")],
            [
                solved("a", "after"),
                failed("b", "after", reflected=RIGHT),
                failed("c", "after", reflected=RIGHT),
                failed("d", "after", reflected=RIGHT, nothing=RIGHT),
            ],
        )
    )
    assert made.against("after_nothing", "before").difference == -0.25
    assert made.against("after_nothing", "after").difference == 0.5
    assert made.difference("reflection_over_nothing").difference == 0.75


def test_each_part_of_a_mix_has_a_table_of_its_own():
    tasks = {"a": "orders", "b": "orders", "c": "queries"}
    before = [solved("a"), failed("b"), failed("c")]
    after = [solved("a", "after"), solved("b", "after"), failed("c", "after")]
    of_tasks = [[replace(t, task=tasks[t.problem_id]) for t in rows] for rows in (before, after)]
    parts = dict(compute(both(*of_tasks)).parts)
    assert [*parts] == ["orders", "queries"]
    assert [size.problems for size in parts["orders"].sizes] == [2, 2]
    assert parts["orders"].difference("first_try").difference == 0.5
    assert parts["queries"].cell("first_try", "after").passed == 0
    assert not parts["orders"].parts
    assert not compute(both(before, after)).parts


def test_a_row_that_is_unknown_on_either_side_leaves_the_headline():
    made = compute(
        both(
            [failed("a", reflected=RIGHT), failed("b", nothing=BROKEN)],
            [failed("a", "after", reflected=RIGHT), failed("b", "after", reflected=RIGHT)],
        )
    )
    assert made.difference("reflection_over_nothing").difference == 0.0
    assert made.difference("after_reflection").difference == 0.5


def test_without_the_control_there_is_no_headline():
    trials = both([failed("a", nothing=None)], [failed("a", "after", nothing=None)])
    made = compute(trials)
    assert made.difference("reflection_over_nothing") is None
    assert [endpoint.name for endpoint in made.endpoints] == ["after_reflection", "first_try"]


def test_flips_are_counted_both_ways_and_tested_exactly():
    before = [solved("a"), *(failed(p) for p in "bcdefghi"), solved("j")]
    after = [failed("a", "after"), *(solved(p, "after") for p in "bcdefghi"), solved("j", "after")]
    row = compute(both(before, after)).difference("first_try")
    assert (row.gained, row.lost) == (8, 1)
    assert row.p_exact == pytest.approx(2 * (1 + 9) / 2**9)


def test_related_rows_get_no_exact_test():
    trials = both(
        [solved("a"), solved("a", sample=1)], [solved("a", "after"), solved("a", "after", 1)]
    )
    row = compute(trials).difference("first_try")
    assert (row.gained, row.lost, row.p_exact) == (0, 0, None)


def test_outcomes_are_followed_reason_by_reason():
    made = compute(
        both(
            [solved("a"), failed("b"), failed("c", first=UNREADABLE), failed("d", first=BROKEN)],
            [
                failed("a", "after"),
                solved("b", "after"),
                failed("c", "after"),
                solved("d", "after"),
            ],
        )
    )
    first = {
        (flip.before_reason, flip.after_reason): flip.count
        for flip in made.flips
        if flip.column == "first_try"
    }
    assert first == {
        ("passed", "missed_target"): 1,
        ("missed_target", "passed"): 1,
        ("no_equation", "missed_target"): 1,
    }


def test_an_outcome_after_reflection_is_the_retrys_unless_the_first_try_passed():
    before, after = [failed("a", reflected=UNREADABLE)], [solved("a", "after")]
    (flip,) = [f for f in compute(both(before, after)).flips if f.column == "after_reflection"]
    assert (flip.before_status, flip.before_reason) == ("unparseable", "no_equation")
    assert (flip.after_status, flip.after_reason) == ("passed", "passed")


def test_reflections_that_state_the_answer_stand_apart_with_their_control():
    rows = [
        solved("a"),
        failed("b", leaked=True, reflected=RIGHT),
        failed("c", leaked=True, reflected=RIGHT, nothing=RIGHT),
        failed("d", nothing=RIGHT),
        failed("e", leaked=None, reflected=RIGHT),
    ]
    leaky, others = compute(both(rows, [])).leak_splits
    assert (leaky.leaked, leaky.n) == (True, 2)
    assert (leaky.passed_after_reflection, leaky.passed_after_nothing) == (2, 1)
    assert leaky.difference == 0.5
    assert (others.leaked, others.n, others.difference) == (False, 1, -1.0)


def test_entropy_is_minus_the_mean_log_probability_of_all_tokens():
    made = compute(both([solved("a"), failed("b")], []))
    entropies = {row.text: (row.nats, row.tokens) for row in made.entropies}
    assert entropies["first_try"] == (pytest.approx((4 * 0.5 + 6 * 1.0) / 10), 10)
    assert entropies["reflection"] == (0.25, 10)


def test_an_engine_without_log_probabilities_gives_no_entropy():
    bare = Answer("2", Verdict.right(), 3, "stop")
    assert compute(both([Trial("a", 0, "before", "q", bare)], [])).entropies == ()


def test_another_model_has_cells_and_takes_no_part_in_differences():
    trials = {
        "before": [failed("a")],
        "after": [failed("a", "after", reflected=RIGHT)],
        "bigger": [solved("a", "bigger")],
    }
    made = compute(trials)
    assert made.whens == ("before", "after", "bigger")
    assert made.cell("first_try", "bigger").low == wilson(1, 1).low
    assert made.difference("after_reflection").difference == 1.0


def test_endpoints_are_tested_as_declared_and_holm_adjusts_the_secondary_ones():
    before = [failed(str(n)) for n in range(40)]
    after = [
        solved(str(n), "after") if n < 10 else failed(str(n), "after", reflected=RIGHT)
        for n in range(40)
    ]
    plan = Plan(
        Endpoints(primary="first_try", secondary=("after_reflection", "after_nothing")), 0.03
    )
    first, *secondary = compute(both(before, after), plan).endpoints
    assert (first.name, first.role, first.conclusion) == ("first_try", "primary", "rose")
    assert first.p_adjusted == first.p
    assert [row.name for row in secondary] == ["after_reflection", "after_nothing"]
    assert [row.p_adjusted for row in secondary] == holm([row.p for row in secondary])


def test_an_interval_around_zero_is_undecided_and_no_difference_takes_an_equivalence_test():
    few = both([solved("a"), failed("b")], [solved("a", "after"), failed("b", "after")])
    many = both([failed(str(n)) for n in range(120)], [failed(str(n), "after") for n in range(120)])
    plan = Plan(Endpoints(primary="first_try", secondary=()), 0.03)
    assert compute(few, plan).endpoints[0].conclusion == "undecided"
    assert compute(many, plan).endpoints[0].conclusion == "no difference"


def test_an_older_run_declared_nothing_and_gets_the_defaults():
    assert plan_of({"problems": 400, "controls": True}) == Plan(Endpoints(), 0.03)
    assert plan_of(None) == Plan(Endpoints(), 0.03)


def test_declared_endpoints_are_read_from_the_runs_settings():
    declared = {"endpoints": {"primary": "first_try"}, "equivalence_margin": 0.02}
    assert plan_of(declared) == Plan(Endpoints(primary="first_try"), 0.02)


@pytest.mark.parametrize(
    ("endpoints", "said"),
    [
        (Endpoints(primary="firsttry"), "did you mean 'first_try'"),
        (Endpoints(primary="first_try"), "names 'first_try' twice"),
    ],
)
def test_endpoints_that_there_are_not_are_refused(endpoints, said):
    with pytest.raises(MulliganError, match=said):
        check_endpoints(endpoints)


def test_one_difference_alone_is_the_one_of_the_table():
    trials = both([solved("a"), failed("b")], [solved("a", "after"), solved("b", "after")])
    for row in compute(trials).differences:
        assert difference_of(trials, row.name) == row
    assert difference_of(trials, "after_filler") is None
    assert difference_of({"before": trials["before"]}, "first_try") is None
