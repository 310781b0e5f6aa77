from statistics import fmean, stdev

import numpy as np
import pytest

from mulligan.study.examine.pooling import mean_of, pool, within

T1 = 12.706205  # Student's t, one degree of freedom, 0.975


def test_every_run_weighs_the_same_and_the_interval_is_over_runs():
    rows = {
        "a": mean_of([("p", 1), ("q", 0), ("r", None)]),
        "b": mean_of([("p", 1), ("q", 1), ("q", 1), ("r", 1)]),
    }
    found = pool("name", "after", "says", rows)
    means = [0.5, 1.0]
    half = T1 * stdev(means) / 2**0.5
    assert list(found.per_run.values()) == means
    assert (found.mean, found.sd) == (fmean(means), stdev(means))
    assert found.low == pytest.approx(fmean(means) - half, abs=1e-5)
    assert found.high == pytest.approx(fmean(means) + half, abs=1e-5)
    assert found.smallest > 0


def test_one_run_has_an_interval_over_problems_and_one_number_alone_has_none():
    many = pool("n", "", "", {"a": mean_of((str(n), n % 2) for n in range(100))})
    assert many.mean == 0.5
    assert 0.35 < many.low < 0.45
    assert 0.55 < many.high < 0.65
    assert many.sd is None
    assert pool("n", "", "", {"a": [("", 3.0, 1.0)]}).low is None


def test_runs_that_know_nothing_are_left_out():
    assert pool("n", "", "", {"a": [], "b": [("p", 1.0, 0.0)]}) is None
    assert pool("n", "", "", {"a": [], "b": mean_of([("p", 1), ("q", 0)])}).per_run == {"b": 0.5}


def test_a_slope_within_groups_is_that_of_least_squares_with_a_level_for_each_group():
    random = np.random.default_rng(3)
    rows = [
        (str(group), float(x), 0.7 * x + 5 * group + random.normal())
        for group in range(6)
        for x in random.normal(size=4)
    ]
    # The same by least squares: one column for x, and one for each group's level.
    design = [[x, *(float(name == str(g)) for g in range(6))] for name, x, _ in rows]
    expected = np.linalg.lstsq(np.array(design), np.array([y for *_, y in rows]), rcond=None)[0][0]
    assert pool("n", "", "", {"a": within(rows)}).mean == pytest.approx(expected)


def test_a_group_in_which_nothing_varies_says_nothing():
    assert within([("a", 1, 0.2), ("a", 1, 0.9), ("b", None, 0.1), ("b", 2, 0.3)]) == []
