import numpy as np
import pytest

from mulligan.evaluation.statistics import (
    Interval,
    holm,
    mcnemar,
    paired_bootstrap,
    resample_pairs,
    resample_sums,
    wilson,
)


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


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        # By hand: 2 (1 + 10 + 45) / 2^10, and 2 / 2^5.
        (8, 2, 112 / 1024),
        (0, 5, 0.0625),
        # 2 P(X <= 9) of 30 throws of a coin: twice 22,964,087 of 2^30.
        (21, 9, 2 * 22_964_087 / 2**30),
        (7, 7, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_is_the_sign_test_on_the_rows_that_changed(gained, lost, p):
    assert mcnemar(gained, lost) == pytest.approx(p, abs=1e-9)
    assert mcnemar(lost, gained) == mcnemar(gained, lost)


def test_mcnemar_refuses_negative_counts():
    with pytest.raises(ValueError, match="-1"):
        mcnemar(-1, 3)


def test_holm_gives_the_values_of_a_worked_example():
    # By hand: 4 x 0.005; 3 x 0.01; 2 x 0.03; the last is lifted to the one before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_a_single_value_and_never_exceeds_one():
    assert holm([0.2]) == [0.2]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_bootstrap_p_value_crosses_five_percent_where_the_interval_crosses_zero():
    for shift in np.linspace(0, 0.4, 21):
        after = np.random.default_rng(3).normal(shift, 1, size=80)
        found = resample_pairs(np.zeros(80), after, np.arange(80))
        low, high = found.interval().low, found.interval().high
        if min(abs(low), abs(high)) > 0.005:  # else quantile and count may round apart
            assert (found.p < 0.05) == (low > 0 or high < 0)


def test_the_bootstrap_p_value_of_no_change_is_one():
    assert resample_pairs([1, 0], [1, 0], ["a", "b"]).p == 1.0


def test_equivalence_is_the_90_percent_interval_within_the_margin():
    after = np.random.default_rng(5).normal(0.0, 0.2, size=500)
    found = resample_pairs(np.zeros(500), after, np.arange(500))
    inner = found.interval(0.90)
    widest = max(-inner.low, inner.high)
    assert found.tost(widest * 1.05) < 0.05 < found.tost(widest * 0.95)


def test_few_problems_without_a_change_do_not_show_equivalence():
    # (1 - 0.03)^98 = 0.0505 and (1 - 0.03)^99 = 0.0490.
    same = [resample_pairs(np.ones(n), np.ones(n), np.arange(n)).tost(0.03) for n in (98, 99)]
    assert same == pytest.approx([0.97**98, 0.97**99])
    assert same[0] > 0.05 > same[1]


def test_an_equivalence_test_needs_a_margin():
    with pytest.raises(ValueError, match="margin above zero"):
        resample_pairs([0], [0], ["a"]).tost(0.0)


def test_clusters_weigh_by_their_size_and_are_drawn_whole():
    found = resample_sums([10.0, 0.0], [1, 9])

    assert found.value == 1.0
    assert set(found.means_B.tolist()) == {0.0, 1.0, 10.0}
    with pytest.raises(ValueError, match="one count for each sum"):
        resample_sums([1.0], [1, 2])
