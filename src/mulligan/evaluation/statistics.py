"""Intervals and tests for one trained model: rates, and differences on the same problems.

What several training runs say together is in ``mulligan.study.statistics``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

_DRAWS_AT_ONCE = 2**22
"""Bounds the memory of a bootstrap (32 MiB per array), however many problems there are."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the interval around it."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval is on one side of zero."""
        return self.low > 0 or self.high < 0


def wilson(passed: int, n: int, level: float = 0.95) -> Interval:
    """Return the Wilson score interval of a rate: ``passed`` of ``n`` independent rows.

    With several samples per problem the rows are not independent, and the interval is narrower than
    it should be; ``paired_bootstrap`` resamples whole problems and has no such fault.

    Source: Wilson (1927), Probable inference, the law of succession, and statistical inference:
    ``(p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)``.

    Raises:
        ValueError: ``n`` is not positive, or ``passed`` is not between 0 and ``n``.
    """
    if not 0 <= passed <= n or n == 0:
        raise ValueError(f"a rate needs 0 <= passed <= n and n > 0, got {passed} of {n}")
    rate = passed / n
    z = _two_sided_z(level)
    shrink = 1 + z**2 / n
    centre = (rate + z**2 / (2 * n)) / shrink
    half = z * sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2)) / shrink
    # At 0 of n and n of n one end equals the rate; rounding must not push it past.
    return Interval(rate, min(rate, max(0.0, centre - half)), max(rate, min(1.0, centre + half)))


@dataclass(frozen=True, slots=True)
class Resampled:
    """A mean difference and what it might have been with other problems."""

    value: float
    """The mean of ``after - before`` over the rows."""
    means_B: NDArray[np.float64]
    """The same mean for each of B draws of the problems."""
    problems: int

    def interval(self, level: float = 0.95) -> Interval:
        """Return the percentile interval that holds ``level`` of the resampled means.

        Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13.
        """
        tail = (1 - level) / 2
        low, high = np.quantile(self.means_B, [tail, 1 - tail])
        return Interval(self.value, float(low), float(high))

    @property
    def p(self) -> float:
        """Two-sided p-value of no difference: the level at which the interval reaches zero.

        Source: Davison and Hinkley (1997), Bootstrap Methods and their Application, section 4.4:
        ``(1 + count) / (1 + B)`` on each side, twice the smaller one.
        """
        return min(1.0, 2 * min(self._share(self.means_B <= 0), self._share(self.means_B >= 0)))

    def tost(self, margin: float) -> float:
        """Return the p-value of a difference of ``margin`` or more, either way.

        Below 0.05 the means are equivalent within the margin: two one-sided tests, for which the
        90% interval is within it. Where few problems were asked, none of them may have changed
        by chance, and every resample agrees; so the value is at least ``(1 - margin)**problems``,
        the chance that no problem shows a change that that share of all problems have.

        Source: Schuirmann (1987), A comparison of the two one-sided tests procedure and the power
        approach for assessing the equivalence of average bioavailability.

        Raises:
            ValueError: the margin is not positive.
        """
        if margin <= 0:
            raise ValueError(f"an equivalence test needs a margin above zero, got {margin}")
        beyond = (self.means_B <= -margin, self.means_B >= margin)
        nothing_changes: float = (1 - min(margin, 1.0)) ** self.problems
        return max(*map(self._share, beyond), nothing_changes)

    def _share(self, hits_B: NDArray[np.bool_]) -> float:
        return float((1 + hits_B.sum()) / (1 + len(self.means_B)))


def resample_pairs(
    before: ArrayLike,
    after: ArrayLike,
    problems: ArrayLike,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Resampled:
    """Return the mean of ``after - before`` and its values over resampled problems.

    Row i of both columns is the same problem and sample. Whole problems are resampled, so that
    several samples of one problem count as the related rows that they are. Where numbers of
    samples differ, each row still weighs the same: a resample's mean is a ratio of sums.

    Args:
        before: one value per row, shape (rows,).
        after: one value per row, shape (rows,).
        problems: which problem each row belongs to; anything that ``numpy.unique`` sorts.
        resamples: how many times the problems are drawn with replacement.
        seed: the same seed gives the same draws.

    Raises:
        ValueError: the columns are empty or differ in length.
    """
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    labels = np.asarray(problems)
    if not first.shape == second.shape == labels.shape or first.ndim != 1 or not first.size:
        shapes = f"{first.shape}, {second.shape} and {labels.shape}"
        raise ValueError(f"paired columns need one equal length above zero, got {shapes}")
    _, index = np.unique(labels, return_inverse=True)
    sums = np.bincount(index, weights=second - first)
    return resample_sums(sums, np.bincount(index), resamples=resamples, seed=seed)


def resample_sums(
    sums: ArrayLike, counts: ArrayLike, *, resamples: int = 10_000, seed: int = 0
) -> Resampled:
    """Return the mean over everything, and its values over resampled clusters.

    Args:
        sums: what the rows of each cluster add up to, shape (clusters,).
        counts: how many rows each cluster has, shape (clusters,).
        resamples: how many times the clusters are drawn with replacement.
        seed: the same seed gives the same draws.

    Raises:
        ValueError: there are no clusters, or not one count for each sum.
    """
    totals, sizes = np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64)
    if totals.shape != sizes.shape or totals.ndim != 1 or not totals.size:
        raise ValueError(f"needs one count for each sum, got {totals.shape} and {sizes.shape}")
    means = _resampled_means(totals, sizes, resamples, seed)
    return Resampled(float(totals.sum() / sizes.sum()), means, len(totals))


def paired_bootstrap(
    before: ArrayLike,
    after: ArrayLike,
    problems: ArrayLike,
    *,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the mean of ``after - before`` and its percentile bootstrap interval.

    The arguments and errors are those of ``resample_pairs``.
    """
    return resample_pairs(before, after, problems, resamples=resamples, seed=seed).interval(level)


def mcnemar(gained: int, lost: int) -> float:
    """Return the exact two-sided p-value that rows are gained as often as they are lost.

    For a column of passed and failed with one row per problem; rows that did not change play no
    part. ``min(1, 2 P(X <= min(gained, lost)))`` with X binomial of ``gained + lost`` and 1/2.

    Source: McNemar (1947), Note on the sampling error of the difference between correlated
    proportions or percentages; the exact form is the sign test on the changed pairs.

    Raises:
        ValueError: a count is negative.
    """
    if min(gained, lost) < 0:
        raise ValueError(f"counts of changed rows cannot be negative, got {gained} and {lost}")
    changed = gained + lost
    tail = sum(comb(changed, k) for k in range(min(gained, lost) + 1))
    return min(1.0, tail / 2 ** (changed - 1)) if changed else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number: each below 0.05 holds with the others.

    The i-th smallest of m is multiplied by ``m - i + 1``, and none is smaller than one before it.

    Source: Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def _resampled_means(
    sums: NDArray[np.float64], counts: NDArray[np.float64], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Return one mean per resample; ``sums`` and ``counts`` hold one entry per problem."""
    random = np.random.default_rng(seed)
    means = np.empty(resamples)
    at_once = max(1, _DRAWS_AT_ONCE // len(sums))
    for start in range(0, resamples, at_once):
        stop = min(start + at_once, resamples)
        drawn = random.integers(len(sums), size=(stop - start, len(sums)))
        means[start:stop] = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    return means


def _two_sided_z(level: float) -> float:
    """Return the normal quantile that leaves half of ``1 - level`` above it."""
    return NormalDist().inv_cdf((1 + level) / 2)
