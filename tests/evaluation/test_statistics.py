import numpy as np
import pytest

from mulligan.evaluation.statistics import Interval, paired_bootstrap, wilson


@pytest.mark.parametrize(
    ("passed", "n", "low", "high"),
    [
        # Newcombe (1998), table I, method 3: the score interval without continuity correction.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # By hand: z² = 3.8415, (0.5 + 0.19207 ± 1.95996·sqrt(0.025 + 0.0096036)) / 1.38415.
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
    ],
)
def test_wilson_gives_the_published_intervals(passed, n, low, high):
    interval = wilson(passed, n)

    assert interval.value == passed / n
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=6e-5)


def test_wilson_is_wider_at_a_higher_level():
    assert wilson(30, 100, 0.99).low < wilson(30, 100).low < wilson(30, 100, 0.9).low


def test_wilson_stays_within_zero_and_one_and_around_the_rate():
    for n in (1, 2, 7, 400):
        for passed in range(n + 1):
            interval = wilson(passed, n)
            assert 0 <= interval.low <= interval.value <= interval.high <= 1


@pytest.mark.parametrize(("passed", "n"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_what_is_no_rate(passed, n):
    with pytest.raises(ValueError, match=f"{passed} of {n}"):
        wilson(passed, n)


def test_wilson_covers_the_true_rate_about_95_times_in_100():
    draws = np.random.default_rng(1).binomial(100, 0.3, size=2000)
    intervals = [wilson(int(passed), 100) for passed in draws]

    covered = np.mean([interval.low <= 0.3 <= interval.high for interval in intervals])

    assert 0.93 < covered < 0.97


def test_identical_columns_differ_by_exactly_zero():
    column = np.random.default_rng(0).integers(2, size=50)

    assert paired_bootstrap(column, column, np.arange(50)) == Interval(0.0, 0.0, 0.0)


def test_a_constant_difference_has_an_interval_of_no_width():
    assert paired_bootstrap([0] * 9, [1] * 9, np.arange(9)) == Interval(1.0, 1.0, 1.0)


def test_the_bootstrap_agrees_with_the_normal_approximation_on_many_problems():
    random = np.random.default_rng(3)
    before, after = random.random(2000) < 0.3, random.random(2000) < 0.4
    difference = after.astype(float) - before
    half = 1.96 * difference.std() / np.sqrt(2000)

    interval = paired_bootstrap(before, after, np.arange(2000))

    assert interval.value == pytest.approx(difference.mean())
    assert interval.low == pytest.approx(difference.mean() - half, abs=0.002)
    assert interval.high == pytest.approx(difference.mean() + half, abs=0.002)


def test_two_problems_resample_into_the_four_cases_that_can_be_listed_by_hand():
    # Differences 0 and 1: means 0 (1 in 4), 0.5 (2 in 4), 1 (1 in 4). So 95% spans 0..1, and the
    # middle 40% (from 0.3 to 0.7 of the distribution) is 0.5 alone.
    wide = paired_bootstrap([0, 0], [0, 1], ["a", "b"])
    narrow = paired_bootstrap([0, 0], [0, 1], ["a", "b"], level=0.4)

    assert wide == Interval(0.5, 0.0, 1.0)
    assert narrow == Interval(0.5, 0.5, 0.5)


def test_whole_problems_are_resampled_so_copies_of_a_row_add_no_certainty():
    random = np.random.default_rng(4)
    before, after = random.random(60) < 0.3, random.random(60) < 0.5

    single = paired_bootstrap(before, after, np.arange(60))
    copied = paired_bootstrap(np.repeat(before, 8), np.repeat(after, 8), np.repeat(range(60), 8))

    assert (copied.low, copied.high) == pytest.approx((single.low, single.high))


def test_problems_with_more_samples_weigh_by_their_rows():
    interval = paired_bootstrap([0, 0, 0, 0], [1, 1, 1, 0], ["a", "a", "a", "b"])

    assert interval.value == 0.75


def test_the_bootstrap_covers_the_true_difference_about_95_times_in_100():
    random = np.random.default_rng(5)
    covered = 0
    # luck + u/2 < 0.6 for all of luck < 0.1, and on average for half of 0.1 < luck < 0.6: 0.35.
    truth = 0.35 - 0.3
    for trial in range(300):
        luck = random.random(150)
        before, after = luck < 0.3, (luck + 0.5 * random.random(150)) < 0.6
        interval = paired_bootstrap(before, after, np.arange(150), resamples=500, seed=trial)
        covered += interval.low <= truth <= interval.high

    assert 0.91 < covered / 300 < 0.98


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    random = np.random.default_rng(6)
    columns = random.integers(2, size=100), random.integers(2, size=100), np.arange(100)

    assert paired_bootstrap(*columns, seed=1) == paired_bootstrap(*columns, seed=1)
    # Percentiles fall on a grid of 1/100, so a few resamples show the seed where many hide it.
    few = {paired_bootstrap(*columns, seed=seed, resamples=20).low for seed in range(10)}
    assert len(few) > 1


def test_many_problems_are_resampled_in_bounded_memory(monkeypatch):
    monkeypatch.setattr("mulligan.evaluation.statistics._DRAWS_AT_ONCE", 1000)
    before, after = np.zeros(300), np.arange(300) % 2

    interval = paired_bootstrap(before, after, np.arange(300), resamples=2000)

    assert interval.value == 0.5
    assert 0.43 < interval.low < 0.46
    assert 0.54 < interval.high < 0.57


@pytest.mark.parametrize(("before", "after"), [([], []), ([1], [1, 0]), ([[1]], [[0]])])
def test_columns_that_cannot_be_paired_are_refused(before, after):
    with pytest.raises(ValueError, match="equal length"):
        paired_bootstrap(before, after, before)


def test_an_interval_that_touches_zero_does_not_exclude_it():
    assert Interval(0.1, 0.01, 0.2).excludes_zero
    assert Interval(-0.1, -0.2, -0.01).excludes_zero
    assert not Interval(0.1, 0.0, 0.2).excludes_zero
