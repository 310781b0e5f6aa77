"""What several training runs say together: pooled means, intervals, what a design can see.

The intervals of one run hold for one trained model. A claim about the method has to hold for runs
that were not made, on problems that were not asked, so both are treated as drawn: Student's t over
the run means knows runs, the crossed bootstrap knows runs and problems, and the wider of the two
is what is reported. Arrays are named by shape: ``R`` runs, ``P`` problems, ``B`` resamples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import nctdtrinc, stdtr, stdtrit

from mulligan.evaluation.statistics import Interval

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pooled:
    """A quantity pooled over runs: fractions, or differences of fractions."""

    mean: float
    """Mean of the run means: every run weighs the same."""
    low: float
    high: float
    """The wider of the two intervals below."""
    level: float
    per_run: tuple[float, ...]
    """The mean of each run, in the order in which they were given."""
    sd: float
    """Standard deviation between run means."""
    student: Interval
    """Student's t over the run means: the problems are taken as given."""
    bootstrap: Interval
    """Runs and problems drawn anew."""
    p: float
    """Two-sided, against a mean of zero: the larger of the two methods' values."""
    new_low: float
    new_high: float
    """Where ``level`` of new runs are expected."""

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval is on one side of zero."""
        return self.low > 0 or self.high < 0


def pooled(
    values_RP: ArrayLike,
    weights_RP: ArrayLike | None = None,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Pooled:
    """Pool a quantity over runs that share their problems.

    For a difference between two arms, or between after and before, ``values_RP`` holds the
    differences themselves: run r and problem p of one minus run r and problem p of the other.

    Args:
        values_RP: the mean over the samples of each problem in each run, as a fraction.
        weights_RP: how many samples each of these means; 1 where left out, 0 where none is known.
        level: share of the cases in which the interval holds the truth.
        resamples: how often runs and problems are drawn.
        seed: the same seed gives the same interval.

    Raises:
        ValueError: fewer than two runs, or a run without a known value.
    """
    values, weights = _checked(values_RP, weights_RP)
    means_R = (values * weights).sum(axis=1) / weights.sum(axis=1)
    runs, mean, sd = len(means_R), float(means_R.mean()), float(means_R.std(ddof=1))
    student = _student(mean, sd, runs, level)
    drawn_B = _crossed_draws(values, weights, resamples, seed)
    tail = (1 - level) / 2
    low, high = (float(end) for end in np.quantile(drawn_B, [tail, 1 - tail]))
    bootstrap = Interval(mean, min(low, mean), max(high, mean))
    wider = max(student, bootstrap, key=lambda each: each.high - each.low)
    reach = _quantile(runs - 1, level) * sd * sqrt(1 + 1 / runs)
    return Pooled(
        mean=mean,
        low=wider.low,
        high=wider.high,
        level=level,
        per_run=tuple(float(each) for each in means_R),
        sd=sd,
        student=student,
        bootstrap=bootstrap,
        p=max(_student_p(mean, sd, runs), _bootstrap_p(drawn_B)),
        new_low=mean - reach,
        new_high=mean + reach,
    )


def smallest_detectable(sd: float, runs: int, *, level: float = 0.95, power: float = 0.8) -> float:
    """Return the smallest true effect that a design of ``runs`` runs finds with a given power.

    Found means that the t-interval over run means excludes zero. The exact noncentral
    t-distribution is used: ``P(T(df, ncp) > t) = power`` is solved for ``ncp = effect sqrt(n)/sd``.

    Raises:
        ValueError: fewer than two runs, or a negative spread.
    """
    if runs < 2 or sd < 0:
        raise ValueError(f"a design needs two runs or more and a spread, got {runs} and {sd}")
    noncentrality = float(nctdtrinc(runs - 1, 1 - power, _quantile(runs - 1, level)))
    return noncentrality * sd / sqrt(runs)


def equivalent(
    values_RP: ArrayLike,
    weights_RP: ArrayLike | None,
    margin: float,
    *,
    alpha: float = 0.05,
    resamples: int = 10_000,
) -> bool:
    """Whether the pooled effect is shown to be within ``margin`` of zero on both sides.

    Two one-sided tests at ``alpha``: the interval of level ``1 - 2 alpha`` is inside the margin.

    Source: Schuirmann (1987), A comparison of the two one-sided tests procedure.

    Raises:
        ValueError: the margin is not positive, or ``pooled`` raises.
    """
    if margin <= 0:
        raise ValueError(f"an equivalence margin has to be above zero, got {margin}")
    result = pooled(values_RP, weights_RP, level=1 - 2 * alpha, resamples=resamples)
    return -margin < result.low and result.high < margin


def variance_components(
    values: Sequence[float], levels: Mapping[str, Sequence[str | int]]
) -> dict[str, float]:
    """Return how much of the variance between runs each crossed factor makes, and the rest.

    The design is balanced: every combination of levels occurs once. Mean squares of the main
    effects are set equal to their expectations; a component below zero counts as zero. The rest,
    under ``rest``, holds interactions and the noise of evaluation.

    Source: Searle, Casella and McCulloch (1992), Variance Components, chapter 4 (ANOVA).

    Raises:
        ValueError: a combination is missing or occurs twice, or nothing is left for the rest.
    """
    y = np.asarray(values, dtype=np.float64)
    sizes = {name: len(set(column)) for name, column in levels.items()}
    rows = set(zip(*levels.values(), strict=True))
    if len(rows) != len(y) or len(y) != np.prod(list(sizes.values())):
        raise ValueError(f"a crossed design needs every combination once, got {len(y)} runs")
    rest_df = len(y) - 1 - sum(size - 1 for size in sizes.values())
    if rest_df < 1 or min(sizes.values()) < 2:
        raise ValueError("a crossed design needs two factors or more, of two levels or more each")
    squares = {name: _main_square(y, column) for name, column in levels.items()}
    rest = max(0.0, float(((y - y.mean()) ** 2).sum()) - sum(squares.values())) / rest_df
    components = {
        name: max(0.0, (square / (sizes[name] - 1) - rest) * sizes[name] / len(y))
        for name, square in squares.items()
    }
    return components | {"rest": rest}


def _main_square(y: Floats, column: Sequence[str | int]) -> float:
    """Return the sum of squares of one factor's main effect."""
    labels = np.asarray([str(each) for each in column])
    groups = [y[labels == label] for label in np.unique(labels)]
    return float(sum(len(group) * (group.mean() - y.mean()) ** 2 for group in groups))


def _checked(values_RP: ArrayLike, weights_RP: ArrayLike | None) -> tuple[Floats, Floats]:
    values = np.array(values_RP, dtype=np.float64)
    weights = np.ones_like(values) if weights_RP is None else np.array(weights_RP, dtype=np.float64)
    if values.ndim != 2 or values.shape != weights.shape or len(values) < 2:
        raise ValueError(f"pooling needs two runs or more by problems, got shape {values.shape}")
    values[weights == 0] = 0.0
    if not np.isfinite(values).all() or not (weights.sum(axis=1) > 0).all():
        raise ValueError("pooling needs finite values, and at least one known value in every run")
    return values, weights


def _crossed_draws(values: Floats, weights: Floats, resamples: int, seed: int) -> Floats:
    """Return one mean per resample; each draws problems once, for all the runs that it draws.

    Drawing n of n runs shrinks the variance between them by (n-1)/n, which matters at five runs:
    their deviations are stretched by sqrt(n/(n-1)) first.

    Sources: Owen (2007), The pigeonhole bootstrap; Hesterberg (2015), What teachers should know
    about the bootstrap, on intervals that are too narrow by that factor.
    """
    runs, problems = values.shape
    means_R = (values * weights).sum(axis=1) / weights.sum(axis=1)
    counts_BP = _draws(problems, resamples, seed)
    weighed_BR = counts_BP @ weights.T
    sums_BR = counts_BP @ (values * weights).T
    means_BR = np.where(weighed_BR > 0, sums_BR / np.maximum(weighed_BR, 1e-300), means_R)
    centre_B1 = means_BR.mean(axis=1, keepdims=True)
    stretched_BR = centre_B1 + sqrt(runs / (runs - 1)) * (means_BR - centre_B1)
    drawn_B: Floats = (stretched_BR * _draws(runs, resamples, seed + 1)).sum(axis=1) / runs
    return drawn_B


@lru_cache(maxsize=8)
def _draws(size: int, resamples: int, seed: int) -> Floats:
    """Return how often each of ``size`` things occurs when as many are drawn with replacement."""
    random = np.random.default_rng(seed)
    counts = random.multinomial(size, np.full(size, 1 / size), size=resamples).astype(np.float64)
    counts.setflags(write=False)
    return counts


def _quantile(df: int, level: float) -> float:
    """Return the quantile of Student's t that leaves half of ``1 - level`` above it."""
    return float(stdtrit(df, (1 + level) / 2))


def _student(mean: float, sd: float, runs: int, level: float) -> Interval:
    half = _quantile(runs - 1, level) * sd / sqrt(runs)
    return Interval(mean, mean - half, mean + half)


def _student_p(mean: float, sd: float, runs: int) -> float:
    if sd == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(runs - 1, -abs(mean) * sqrt(runs) / sd))


def _bootstrap_p(drawn_B: Floats) -> float:
    """Return twice the share of resamples beyond zero; never 0: more draws might pass it."""
    beyond = min((drawn_B <= 0).sum(), (drawn_B >= 0).sum())
    return float(min(1.0, 2 * (beyond + 1) / (len(drawn_B) + 1)))
