import pytest
from benchmarks.intervals import exponent, ratio, spread


def test_a_spread_is_median_least_and_largest():
    assert spread([3.0, 1.0, 2.0]) == {"median": 2.0, "low": 1.0, "high": 3.0, "repeats": 3}


def test_a_ratio_is_the_median_over_pairs_not_the_ratio_of_medians():
    peer, own = [10.0, 40.0, 90.0], [1.0, 20.0, 10.0]  # 10, 2 and 9; medians 40 and 10 give 4
    found = ratio(peer, own)
    assert found.value == 9.0
    assert (found.low, found.high) == (2.0, 10.0)
    assert found.repeats == 3


def test_a_ratio_that_never_changes_has_an_interval_without_width():
    found = ratio([2.0, 4.0, 8.0, 2.0, 6.0], [1.0, 2.0, 4.0, 1.0, 3.0])
    assert (found.low, found.value, found.high) == (2.0, 2.0, 2.0)


def test_a_ratio_needs_pairs():
    with pytest.raises(ValueError, match="paired"):
        ratio([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="paired"):
        ratio([], [])


def test_an_exponent_is_that_of_the_power_law_that_made_the_points():
    sizes = [1, 2, 4, 8]
    found = exponent(sizes, [[3.0 * size**1.5] * 5 for size in sizes])
    assert found.value == pytest.approx(1.5)
    assert found.low == pytest.approx(1.5)
    assert found.high == pytest.approx(1.5)


def test_repeats_that_scatter_widen_the_exponents_interval():
    found = exponent([1, 2], [[1.0, 1.0, 1.0], [1.0, 2.0, 4.0]])
    assert found.value == pytest.approx(1.0)
    assert (found.low, found.high) == (pytest.approx(0.0), pytest.approx(2.0))


def test_an_exponent_needs_two_sizes():
    with pytest.raises(ValueError, match="two sizes"):
        exponent([3, 3], [[1.0], [2.0]])
