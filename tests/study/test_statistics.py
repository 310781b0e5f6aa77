import numpy as np
import pytest

from mulligan.study.statistics import (
    equivalent,
    pooled,
    smallest_detectable,
    variance_components,
)

# Three runs of two problems; run means 0.1, 0.2 and 0.3.
THREE_RUNS = [[0.0, 0.2], [0.2, 0.2], [0.3, 0.3]]


def test_run_means_are_pooled_by_students_t():
    result = pooled(THREE_RUNS)

    assert result.mean == pytest.approx(0.2)
    assert result.per_run == pytest.approx((0.1, 0.2, 0.3))
    assert result.sd == pytest.approx(0.1)
    # t(2; 0.975) = 4.302653; half = 4.302653 * 0.1 / sqrt(3).
    assert result.student.low == pytest.approx(0.2 - 0.248414, abs=1e-6)
    assert result.student.high == pytest.approx(0.2 + 0.248414, abs=1e-6)


def test_new_runs_are_expected_where_the_spread_puts_them():
    result = pooled(THREE_RUNS)

    # 4.302653 * 0.1 * sqrt(1 + 1/3)
    assert result.new_low == pytest.approx(0.2 - 0.496828, abs=1e-6)
    assert result.new_high == pytest.approx(0.2 + 0.496828, abs=1e-6)


def test_the_wider_interval_is_the_one_that_is_given():
    few_runs = pooled(THREE_RUNS)
    assert (few_runs.low, few_runs.high) == (few_runs.student.low, few_runs.student.high)

    # Runs agree exactly, problems differ: Student's t sees no spread at all.
    alike = pooled([[1, 0, 0, 1]] * 4)
    assert alike.student.low == alike.student.high == 0.5
    assert (alike.low, alike.high) == (alike.bootstrap.low, alike.bootstrap.high)
    assert alike.low < 0.2
    assert alike.high > 0.8


def test_runs_that_agree_have_the_bootstrap_of_their_problems():
    column = np.arange(100) % 4 == 0
    result = pooled(np.tile(column, (6, 1)))

    # The standard error of 25 of 100 is 0.0433; 1.96 of it on either side.
    assert (result.low, result.high) == pytest.approx((0.165, 0.335), abs=0.012)


def test_problems_without_a_known_value_weigh_nothing():
    values = [[0.5, np.nan, 1.0], [0.0, 1.0, 1.0]]
    result = pooled(values, [[2, 0, 2], [2, 2, 2]])

    assert result.per_run == pytest.approx((0.75, 2 / 3))


def test_problems_with_more_samples_weigh_more():
    result = pooled([[1.0, 0.0], [1.0, 0.0]], [[3, 1], [1, 1]])

    assert result.per_run == pytest.approx((0.75, 0.5))


@pytest.mark.parametrize(
    ("values", "weights"),
    [([[0.1, 0.2]], None), ([[0.1], [np.nan]], None), ([[0.1], [0.2]], [[1], [0]])],
    ids=["one run", "not a number", "a run that knows nothing"],
)
def test_what_cannot_be_pooled_is_refused(values, weights):
    with pytest.raises(ValueError, match="pooling needs"):
        pooled(values, weights)


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(3).normal(size=(5, 40))

    assert pooled(values, seed=1) == pooled(values, seed=1)
    assert pooled(values, seed=1).bootstrap != pooled(values, seed=5).bootstrap


def test_the_p_value_is_that_of_the_t_test_where_it_is_the_larger():
    # t = 0.2 / (0.1 / sqrt(3)) = 3.4641; two-sided p of t(2) is 0.074180.
    assert pooled(THREE_RUNS).p == pytest.approx(0.074180, abs=1e-6)


def test_no_effect_at_all_has_a_p_of_one():
    assert pooled(np.zeros((3, 4))).p == 1.0


def coverage(runs, problems, run_sd, problem_sd, simulations, seed=0):
    """Share of simulated studies whose interval holds the true difference, 0.1.

    Rows are differences of two yes/no outcomes, as those of an evaluation are: run and problem
    shift the chance of passing after training.
    """
    random = np.random.default_rng(seed)
    held = 0
    for _ in range(simulations):
        shift = random.normal(0, run_sd, (runs, 1)) + random.normal(0, problem_sd, (1, problems))
        after = random.random((runs, problems)) < np.clip(0.5 + shift, 0, 1)
        before = random.random((runs, problems)) < 0.4
        result = pooled(after.astype(float) - before, resamples=1000)
        held += result.low <= 0.1 <= result.high
    return held / simulations


@pytest.mark.parametrize("runs", [5, 10])
def test_the_published_interval_holds_the_truth_in_enough_simulated_studies(runs):
    assert coverage(runs, 60, run_sd=0.05, problem_sd=0.2, simulations=300) >= 0.93


@pytest.mark.slow
@pytest.mark.parametrize("runs", [5, 10])
@pytest.mark.parametrize("run_sd", [0.0, 0.02, 0.05, 0.1])
@pytest.mark.parametrize("problem_sd", [0.0, 0.1, 0.25])
def test_coverage_is_at_least_93_in_100_whatever_makes_the_spread(runs, run_sd, problem_sd):
    assert coverage(runs, 200, run_sd, problem_sd, simulations=3000) >= 0.93


def test_the_smallest_detectable_effect_is_that_of_published_power_tables():
    # Two-sided one-sample t-test, effect 0.5 SD, power 0.8, level 0.05: 34 observations.
    assert smallest_detectable(1, 34) < 0.5 < smallest_detectable(1, 33)


def test_an_effect_of_the_smallest_detectable_size_is_found_four_times_in_five():
    effect = smallest_detectable(0.05, 10)
    random = np.random.default_rng(2)
    means = random.normal(effect, 0.05, (20_000, 10))
    t = means.mean(1) / (means.std(1, ddof=1) / np.sqrt(10))

    assert (np.abs(t) > 2.262157).mean() == pytest.approx(0.8, abs=0.01)


def test_a_design_of_one_run_can_detect_nothing():
    with pytest.raises(ValueError, match="two runs or more"):
        smallest_detectable(0.05, 1)


def test_equivalence_needs_the_whole_interval_within_the_margin():
    # Eight runs at 0.001 +- 0.004: t(7; 0.95) = 1.894579, half 0.0029.
    means = 0.001 + 0.004 * np.array([-1, 1, -1, 1, -1, 1, -1, 1])
    values = np.tile(means[:, None], (1, 30))

    assert equivalent(values, None, margin=0.005)
    assert not equivalent(values, None, margin=0.0035)


def test_a_margin_of_zero_is_refused():
    with pytest.raises(ValueError, match="above zero"):
        equivalent(THREE_RUNS, None, margin=0.0)


def test_crossed_factors_are_told_apart():
    # Squares: warm-up 16 with 1 degree of freedom, training 1 with 1, nothing left over.
    components = variance_components(
        [1, 2, 5, 6], {"sft.seed": [1, 1, 2, 2], "train.seed": [1, 2, 1, 2]}
    )
    assert components == pytest.approx({"sft.seed": 8.0, "train.seed": 0.5, "rest": 0.0})


def test_a_factor_that_makes_less_than_chance_counts_as_nothing():
    components = variance_components([0, 1, 1, 0], {"a": [1, 1, 2, 2], "b": [1, 2, 1, 2]})
    assert components == pytest.approx({"a": 0.0, "b": 0.0, "rest": 1.0})


@pytest.mark.parametrize(
    "levels",
    [{"a": [1, 1, 2, 2], "b": [1, 1, 1, 2]}, {"a": [1, 2, 3, 4]}],
    ids=["a combination is missing", "nothing is left for the rest"],
)
def test_an_unbalanced_crossing_is_refused(levels):
    with pytest.raises(ValueError, match="a crossed design needs"):
        variance_components([1, 2, 3, 4], levels)
