"""Intervals for rates, and for differences between rates on the same problems."""

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

_DRAWS_AT_ONCE = 2**22
"""Bounds the memory of a bootstrap (32 MiB an array), however many problems there are."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and the interval around it."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def wilson(passed: int, n: int, level: float = 0.95) -> Interval:
    """Return the Wilson score interval of a rate: ``passed`` of ``n`` independent rows.

    With several samples a problem the rows are not independent, and the interval is narrower than
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

    Row i of both columns is the same problem and sample. Whole problems are resampled, so that
    several samples of one problem count as the related rows that they are. Where numbers of
    samples differ, each row still weighs the same: a resample's mean is a ratio of sums.

    Source: Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13.

    Args:
        before: one value a row, shape (rows,).
        after: one value a row, shape (rows,).
        problems: which problem each row belongs to; anything that ``numpy.unique`` sorts.
        resamples: how many times the problems are drawn with replacement.
        level: share of the resampled means that the interval holds.
        seed: the same seed gives the same interval.

    Raises:
        ValueError: the columns are empty or differ in length.
    """
    first, second = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    labels = np.asarray(problems)
    if not first.shape == second.shape == labels.shape or first.ndim != 1 or not first.size:
        shapes = f"{first.shape}, {second.shape} and {labels.shape}"
        raise ValueError(f"paired columns need one equal length above zero, got {shapes}")
    _, index = np.unique(labels, return_inverse=True)
    sums = np.bincount(index, weights=second - first).astype(np.float64)
    counts = np.bincount(index).astype(np.float64)
    means = _resampled_means(sums, counts, resamples, seed)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))


def _resampled_means(
    sums: NDArray[np.float64], counts: NDArray[np.float64], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Return one mean a resample; ``sums`` and ``counts`` hold one entry a problem."""
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
