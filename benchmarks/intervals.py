"""Medians, intervals of ratios over paired repeats, and exponents of growth."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from mulligan.randomness import derive_seed

DRAWS = 10_000
LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95% interval."""

    value: float
    low: float
    high: float
    repeats: int

    def as_json(self) -> dict[str, float]:
        """Return it as plain values."""
        return asdict(self)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the least and the largest of some repeats, and how many there are."""
    ordered = np.asarray(values, dtype=float)
    return {
        "median": float(np.median(ordered)),
        "low": float(ordered.min()),
        "high": float(ordered.max()),
        "repeats": len(values),
    }


def ratio(peer: Sequence[float], own: Sequence[float]) -> Estimate:
    """Return the median of peer/own over paired repeats, with a percentile bootstrap over pairs.

    Pairs were measured one right after the other, so that whatever else the machine did met both;
    pairs, not values, are drawn again.

    Raises:
        ValueError: the two have different numbers of repeats, or none.
    """
    if len(peer) != len(own) or not peer:
        raise ValueError(f"a ratio needs paired repeats; got {len(peer)} and {len(own)}")
    ratios_N = np.asarray(peer, dtype=float) / np.asarray(own, dtype=float)
    generator = np.random.default_rng(derive_seed(0, "ratio"))
    drawn = np.median(generator.choice(ratios_N, size=(DRAWS, len(ratios_N))), axis=1)
    return _estimate(float(np.median(ratios_N)), drawn, len(ratios_N))


def exponent(sizes: Sequence[float], repeats: Sequence[Sequence[float]]) -> Estimate:
    """Return b of ``value = a * size ** b``: least squares on logarithms of medians.

    Args:
        sizes: of the points, at least two different ones.
        repeats: what was measured at each point; the interval comes from drawing these again.

    Raises:
        ValueError: there are not two different sizes, each with a repeat.
    """
    if len(sizes) != len(repeats) or len(set(sizes)) < 2 or not all(repeats):
        raise ValueError(f"an exponent needs two sizes with repeats at each; got sizes {sizes}")
    logs_P = np.log(np.asarray(sizes, dtype=float))
    generator = np.random.default_rng(derive_seed(0, "exponent"))
    drawn_PD = np.stack(
        [np.median(generator.choice(np.asarray(r), size=(DRAWS, len(r))), axis=1) for r in repeats]
    )
    medians_P = np.asarray([np.median(r) for r in repeats])
    value = float(_slope(logs_P, np.log(medians_P)[:, None])[0])
    return _estimate(value, _slope(logs_P, np.log(drawn_PD)), min(map(len, repeats)))


def _slope(x_P: np.ndarray, y_PD: np.ndarray) -> np.ndarray:
    """Return the slope of the line through each column's points."""
    centred_P = x_P - x_P.mean()
    slopes: np.ndarray = centred_P @ y_PD / (centred_P @ centred_P)
    return slopes


def _estimate(value: float, drawn: np.ndarray, repeats: int) -> Estimate:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Estimate(value, float(low), float(high), repeats)
