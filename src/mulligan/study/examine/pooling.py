"""Quantities that runs say together: what an examination finds, with its intervals."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from mulligan.evaluation.statistics import resample_sums
from mulligan.study.statistics import pooled, smallest_detectable

Weighed = tuple[str, float, float]
"""What is resampled together (a problem, say), a value, and its weight."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with its interval, pooled over runs."""

    name: str
    when: str
    """``before`` or ``after`` training, or what else it is about; may be empty."""
    says: str
    """What it is, in a clause."""
    mean: float
    low: float | None
    high: float | None
    """None where a single run has one number and nothing to resample."""
    per_run: Mapping[str, float]
    sd: float | None = None
    """Between runs; None with one run, whose interval is over problems and holds for it alone."""
    smallest: float | None = None
    """The smallest effect that so many runs with this spread find four times in five."""


def pool(
    name: str, when: str, says: str, rows: Mapping[str, Iterable[Weighed]], level: float = 0.95
) -> Quantity | None:
    """Pool a weighed mean over runs, each of which weighs the same.

    Args:
        name: of the quantity.
        when: which of several times or things it is about.
        says: what it is.
        rows: by run; rows that share a label are drawn together, in all runs.
        level: of the interval.

    Returns:
        None where no run knows the quantity. Runs that do not are left out.
    """
    known = {run: totals for run, each in rows.items() if (totals := _totals(each))}
    if not known:
        return None
    labels = sorted({label for totals in known.values() for label in totals})
    sums_RP = np.array([[known[run].get(each, (0.0, 0.0))[0] for each in labels] for run in known])
    weights_RP = np.array(
        [[known[run].get(each, (0.0, 0.0))[1] for each in labels] for run in known]
    )
    means = (sums_RP.sum(axis=1) / weights_RP.sum(axis=1)).tolist()
    per_run = dict(zip(known, means, strict=True))
    if len(known) == 1:
        there = weights_RP[0] > 0
        if there.sum() < 2:
            return Quantity(name, when, says, means[0], None, None, per_run)
        alone = resample_sums(sums_RP[0][there], weights_RP[0][there]).interval(level)
        return Quantity(name, when, says, alone.value, alone.low, alone.high, per_run)
    values_RP = np.where(weights_RP > 0, sums_RP / np.where(weights_RP > 0, weights_RP, 1), 0.0)
    found = pooled(values_RP, weights_RP, level=level)
    return Quantity(
        name,
        when,
        says,
        found.mean,
        found.low,
        found.high,
        per_run,
        found.sd,
        smallest_detectable(found.sd, len(known), level=level),
    )


def present(quantities: Iterable[Quantity | None]) -> list[Quantity]:
    """Return the quantities that are known."""
    return [each for each in quantities if each is not None]


def mean_of(values: Iterable[tuple[str, float | bool | None]]) -> list[Weighed]:
    """Return rows of weight 1 for the values that are known."""
    return [(label, float(value), 1.0) for label, value in values if value is not None]


def within(rows: Iterable[tuple[str, float | None, float]]) -> list[Weighed]:
    """Return what a slope within groups is the weighed mean of: one row for each group.

    Each row is (group, x, y). The slope of y on x with a level of its own for every group is
    ``sum(Sxy) / sum(Sxx)``, the sums of products and squares of deviations from the group's means:
    the mean of the groups' own slopes, each weighed by its Sxx. Groups in which x does not vary say
    nothing of it.
    """
    groups: dict[str, list[tuple[float, float]]] = {}
    for group, x, y in rows:
        if x is not None:
            groups.setdefault(group, []).append((float(x), y))
    slopes = []
    for group, points in groups.items():
        x_N, y_N = (np.array(column) for column in zip(*points, strict=True))
        off_N = x_N - x_N.mean()
        sxx = float((off_N**2).sum())
        if sxx > 1e-12:
            slopes.append((group, float((off_N * (y_N - y_N.mean())).sum()) / sxx, sxx))
    return slopes


def _totals(rows: Iterable[Weighed]) -> dict[str, tuple[float, float]]:
    """Return the weighed sum and the weight of each label; empty where nothing weighs anything."""
    totals: dict[str, tuple[float, float]] = {}
    for label, value, weight in rows:
        total, weights = totals.get(label, (0.0, 0.0))
        totals[label] = (total + value * weight, weights + weight)
    return totals if any(weight > 0 for _, weight in totals.values()) else {}
