"""Taking turns by weights."""

import math
from collections.abc import Iterator, Mapping
from typing import TypeVar

Kind = TypeVar("Kind")


def in_proportion(weights: Mapping[Kind, float]) -> Iterator[Kind]:
    """Yield kinds without end, each as often as its weight says.

    No chance is involved, and every beginning keeps close to the shares.
    """
    total = sum(weights.values())
    balance = dict.fromkeys(weights, 0.0)
    while True:
        for kind, weight in weights.items():
            balance[kind] += weight / total
        chosen = max(balance, key=lambda kind: round(balance[kind], 9))
        balance[chosen] -= 1
        yield chosen


def apportion(weights: Mapping[Kind, float], size: int) -> dict[Kind, int]:
    """Divide ``size`` things by weights: whole numbers that add up, by largest remainders."""
    total = sum(weights.values())
    exact = {kind: size * weight / total for kind, weight in weights.items()}
    whole = {kind: math.floor(share) for kind, share in exact.items()}
    by_remainder = sorted(weights, key=lambda kind: whole[kind] - exact[kind])
    for kind in by_remainder[: size - sum(whole.values())]:
        whole[kind] += 1
    return whole
