"""Numbers of the table, against values computed by hand from made-up runs."""

import json
from dataclasses import replace

import numpy as np
import pytest
from studies import write_study

from mulligan.errors import MulliganError
from mulligan.study.acceptance import publish
from mulligan.study.plan import plan
from mulligan.study.result import Cost, Result
from mulligan.study.show import answers, number_text, table_as_json
from mulligan.study.table import compute
from mulligan.types import Answer, Trial, Verdict

RIGHT = Answer("", Verdict.right(), 1, "stop")
WRONG = Answer("", Verdict.wrong(), 1, "stop")
UNJUDGED = Answer("", Verdict.error("broke"), 1, "stop")


def made(run, before, after, retries=(), problems=None):
    """A result whose first tries before and after training pass as 1s say."""

    def trials(when, passed):
        for number, one in enumerate(passed):
            first = {1: RIGHT, 0: WRONG, None: UNJUDGED}[one]
            again = RIGHT if when == "after" and number in retries else WRONG
            yield Trial(
                (problems or "abcdefgh")[number],
                0,
                when,
                "",
                first,
                greedy=first,
                after_reflection=None if first is RIGHT else again,
                second_tries={} if first is RIGHT else {"nothing": WRONG},
            )

    found = {when: tuple(trials(when, p)) for when, p in (("before", before), ("after", after))}
    return Result(run, found, Cost(4, 100, 1.0), 2)


@pytest.fixture
def planned(tmp_path):
    def make(**changes):
        return plan(write_study(tmp_path, in_recipe={"evaluate__greedy": True}, **changes))

    return make


def results(design, rows):
    """Results by run, in the plan's order."""
    return {
        run.id: made(run, *row)
        for run, row in zip(design.runs, rows, strict=True)
        if row is not None
    }


TWO_BY_TWO = [
    ((1, 0, 0, 0), (1, 1, 0, 0)),  # base, seed 1: +1/4
    ((1, 0, 0, 0), (1, 1, 1, 1)),  # hot, seed 1: +3/4
    ((0, 0, 0, 0), (1, 1, 1, 0)),  # base, seed 2: +3/4
    ((0, 0, 0, 0), (1, 1, 1, 1)),  # hot, seed 2: +4/4
]


def test_arms_are_pooled_and_compared_as_by_hand(planned):
    design = planned()
    table = compute(design, results(design, TWO_BY_TWO), {}, 0.95)

    change = table.estimate("base", "first_try", "change")
    assert change.per_run == {"1": 0.25, "2": 0.75}
    assert change.mean == pytest.approx(0.5)
    # SD = 0.353553; t(1; 0.975) = 12.706205; half = 12.706205 * 0.353553 / sqrt(2) = 3.176551.
    assert (change.low, change.high) == pytest.approx((0.5 - 3.176551, 0.5 + 3.176551), abs=1e-5)
    assert change.new_high == pytest.approx(0.5 + 12.706205 * 0.353553 * 1.5**0.5, abs=1e-4)

    # Paired: 3/4 - 1/4 and 4/4 - 3/4; SD of (0.5, 0.25) is 0.176777.
    against = table.estimate("hot", "first_try", "against_base")
    assert against.per_run == {"1": 0.5, "2": 0.25}
    half = 12.706205 * 0.176777 / 2**0.5
    assert (against.low, against.high) == pytest.approx((0.375 - half, 0.375 + half), abs=1e-5)


def test_what_is_after_training_is_compared_too_for_arms_with_another_warm_up(planned):
    design = planned()
    rows = [*TWO_BY_TWO[:3], ((1, 1, 1, 0), (1, 1, 1, 1))]  # hot, seed 2: a better beginning
    table = compute(design, results(design, rows), {}, 0.95)

    assert table.estimate("hot", "first_try", "against_base").per_run == {"1": 0.5, "2": -0.5}
    after = table.estimate("hot", "first_try", "after_against_base")
    assert after.per_run == {"1": 0.5, "2": 0.25}


def test_a_pair_is_in_the_comparison_only_where_both_runs_are(planned):
    design = planned()
    table = compute(design, results(design, [*TWO_BY_TWO[:3], None]), {"hot-2": "it broke"}, 0.95)

    against = table.estimate("hot", "first_try", "against_base")
    assert against.per_run == {"1": 0.5}
    assert against.low is None
    assert (table.finished("hot"), table.planned("hot")) == (1, 2)
    assert table.runs[3].failure == "it broke"


def test_answers_that_were_not_judged_weigh_nothing(planned):
    design = planned(arms={"base": {}})
    rows = [((0, 0, 0, None), (1, None, 0, 0)), ((0, 0, 0, 0), (1, 0, 0, 0))]
    table = compute(design, results(design, rows), {}, 0.95)

    # In the first run problems a and c are known at both times: +1 and 0.
    change = table.estimate("base", "first_try", "change")
    assert change.per_run == {"1": pytest.approx(0.5), "2": pytest.approx(0.25)}


def test_runs_on_other_problems_are_refused_by_name(planned):
    design = planned(arms={"base": {}})
    first, second = design.runs
    found = {
        first.id: made(first, (0, 0), (1, 0), problems="ab"),
        second.id: made(second, (0, 0), (1, 0), problems="ac"),
    }
    with pytest.raises(MulliganError, match="base-2 before training has 1 that base-1 before"):
        compute(design, found, {}, 0.95)


def test_runs_that_follow_different_rules_are_refused(planned):
    design = planned(arms={"base": {}})
    found = results(design, TWO_BY_TWO[:2])
    found["base-2"] = replace(found["base-2"], format=1)
    with pytest.raises(MulliganError, match="'base-2' follows format 1"):
        compute(design, found, {}, 0.95)


def test_crossed_seeds_have_components_and_no_interval(planned):
    design = planned(arms={"base": {}}, seeds={"cross": {"sft.seed": [1, 2], "train.seed": [1, 2]}})
    zeros = (0,) * 8
    ends = [(1, *zeros[1:]), (1, 1, *zeros[2:]), (1, 1, 1, 1, 1, *zeros[5:]), (*(1,) * 6, 0, 0)]
    table = compute(design, results(design, [(zeros, end) for end in ends]), {}, 0.95)

    assert table.estimate("base", "first_try", "change").low is None
    spread = next(spread for spread in table.spreads if spread.outcome == "first_try")
    # Changes of 1, 2, 5 and 6 eighths: variances 8 and 0.5 of 1/64, nothing left over.
    assert spread.components == pytest.approx(
        {"sft.seed": 8**0.5 / 8, "train.seed": 0.5**0.5 / 8, "rest": 0.0}
    )


def many(design, change, problems=100):
    """Runs of 100 problems that were all failed before, of which a share passes after."""
    names = [f"{number:03}" for number in range(problems)]
    return {
        run.id: made(run, (0,) * problems, [int(n < round(c * problems)) for n in range(problems)],
                     problems=names)
        for run, c in zip(design.runs, change, strict=True)
    }  # fmt: skip


def test_a_clear_change_is_said_to_be_higher(planned):
    design = planned(arms={"base": {}}, seeds=list(range(6)))
    table = compute(design, many(design, [0.3, 0.32, 0.28, 0.31, 0.3, 0.29]), {}, 0.95)
    said = list(answers(table))
    assert any(s.startswith("First try (secondary), base, change: higher") for s in said)


def test_no_change_is_concluded_from_an_equivalence_test_only(planned):
    design = planned(arms={"base": {}}, seeds=list(range(6)))
    none = compute(design, many(design, [0.0] * 6), {}, 0.95)
    assert "no difference beyond 3.0 points" in none.estimate("base", "first_try", "change").answer

    few = planned(arms={"base": {}}, seeds=[1, 2])
    unclear = compute(few, many(few, [0.0, 0.08]), {}, 0.95)
    answer = unclear.estimate("base", "first_try", "change").answer
    assert answer.startswith("undecided: interval [")
    assert "smallest detectable effect" in answer


def test_a_secondary_endpoint_needs_more_than_the_level_of_one_test(planned):
    design = planned(arms={"base": {}}, seeds=[1, 2, 3, 4])
    table = compute(design, many(design, [0.02, 0.10, 0.13, 0.15]), {}, 0.95)
    estimate = table.estimate("base", "first_try", "change")
    # t = 3.515 with 3 degrees of freedom: p = 0.039; after reflection has the same: 2 p > 0.05.
    assert estimate.p == pytest.approx(0.039, abs=0.001)
    assert estimate.p_adjusted == pytest.approx(2 * estimate.p)
    assert estimate.answer.startswith("undecided among 2 secondary endpoints (Holm")


def test_the_table_is_plain_json(planned):
    design = planned()
    content = table_as_json(compute(design, results(design, TWO_BY_TWO), {}, 0.95))
    assert json.loads(json.dumps(content, allow_nan=False))["finished"] == {"base": 2, "hot": 2}


# The record of an acceptance


@pytest.fixture
def accepted(planned, tmp_path):
    """Publishes made-up runs of ten derived seeds; returns the record."""

    def publish_it(attempt=1, level=0.95, path=tmp_path / "record.json", drop=()):
        seeds = {"derive": 10, "from": "recipe", "attempt": attempt}
        design = planned(arms={"base": {}}, seeds=seeds, level=level)
        random = np.random.default_rng(attempt)
        found = many(design, 0.3 + 0.02 * random.standard_normal(10))
        for number in drop:
            del found[design.runs[number].id]
        table = compute(design, found, {}, level)
        publish(design, table, path)
        return design, table, json.loads(path.read_text())

    return publish_it


def test_the_record_names_endpoints_seeds_and_where_a_new_seed_is_expected(accepted):
    design, table, record = accepted()
    assert record["seeds"] == [int(seed) for seed in design.seeds]
    names = [endpoint["name"] for endpoint in record["endpoints"]]
    assert names == [
        "after_reflection",
        "reflection_over_nothing",
        "asked_again",
        "first_try",
        "first_try_greedy",
    ]
    first_try = record["endpoints"][3]
    change = table.estimate("base", "first_try", "change")
    assert first_try["mean"] == change.mean
    assert first_try["per_seed"] == change.per_run
    # t(9; 0.975) = 2.262157
    reach = 2.262157 * first_try["sd"] * (1 + 1 / 10) ** 0.5
    assert first_try["new_seed_low"] == pytest.approx(first_try["mean"] - reach)
    assert first_try["new_seed_high"] == pytest.approx(first_try["mean"] + reach)


def test_a_second_set_of_seeds_is_listed_beside_the_first_at_its_higher_level(accepted):
    accepted()
    _, _, record = accepted(attempt=2, level=0.975)
    assert [attempt["attempt"] for attempt in record["attempts"]] == [1, 2]
    assert [attempt["level"] for attempt in record["attempts"]] == [0.95, 0.975]
    assert record["seeds"] == record["attempts"][1]["seeds"] != record["attempts"][0]["seeds"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"attempt": 2}, "judged at level 0.975"),
        ({"attempt": 3}, "there is no third"),
        ({"drop": [4]}, "Only 9 of 10 runs"),
    ],
)
def test_what_does_not_count_as_an_acceptance_is_refused(accepted, options, says):
    with pytest.raises(MulliganError, match=says):
        accepted(**options)


def test_the_record_compares_the_base_arm_with_the_others_after_training(planned, tmp_path):
    design = planned(seeds={"derive": 2, "from": "study"})
    found = results(design, TWO_BY_TWO)
    record = publish(design, compute(design, found, {}, 0.95), tmp_path / "record.json")
    [hot] = record["comparisons"]
    assert (hot["against"], hot["finished"], hot["planned"]) == ("hot", 2, 2)
    assert hot["generated_tokens"] == {"base": 100, "hot": 100}
    by_name = {endpoint["name"]: endpoint for endpoint in hot["endpoints"]}
    first_try = by_name["first_try"]
    assert list(first_try["per_seed"].values()) == [2 / 4 - 4 / 4, 3 / 4 - 4 / 4]
    # SD = 0.176777; t(1; 0.975) = 12.706205; half = 12.706205 * 0.176777 / sqrt(2) = 1.588276.
    assert first_try["mean"] == pytest.approx(-0.375)
    ends = (first_try["low"], first_try["high"])
    assert ends == pytest.approx((-0.375 - 1.588276, -0.375 + 1.588276), abs=1e-5)
    assert set(by_name) == {endpoint["name"] for endpoint in record["endpoints"]}


def test_an_arm_whose_runs_are_not_all_there_is_not_compared(planned, tmp_path):
    design = planned(seeds={"derive": 2, "from": "study"})
    found = results(design, [*TWO_BY_TWO[:3], None])
    record = publish(design, compute(design, found, {}, 0.95), tmp_path / "record.json")
    [hot] = record["comparisons"]
    assert (hot["finished"], hot["planned"], hot["endpoints"]) == (1, 2, [])


def test_chosen_seeds_are_no_acceptance(planned, tmp_path):
    design = planned()
    table = compute(design, results(design, TWO_BY_TWO), {}, 0.95)
    with pytest.raises(MulliganError, match="seeds that somebody chose"):
        publish(design, table, tmp_path / "record.json")


def test_a_file_that_holds_something_else_is_left_alone(accepted, tmp_path):
    path = tmp_path / "record.json"
    path.write_text('{"cells": []}')
    with pytest.raises(MulliganError, match="not a record of attempts"):
        accepted(path=path)
    assert path.read_text() == '{"cells": []}'


def test_an_interval_is_shown_within_what_a_rate_and_a_change_can_be():
    rate, change = number_text("after", "first_try"), number_text("change", "first_try")
    assert (rate(-0.314), rate(0.25), rate(1.05)) == ("0.0%", "25.0%", "100.0%")
    assert (change(0.125), change(1.5), change(-1.5)) == ("+12.5", "+100.0", "−100.0")
    assert number_text("before", "reflection_over_nothing")(-0.2) == "−20.0"
