"""What the demonstrations of all tasks share: kinds of reflection, their weights, vague words."""

import random
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from mulligan.errors import MulliganError, nearest

REFLECTION_SHARES: Mapping[str, float] = MappingProxyType(
    {"vague": 1 / 3, "diagnosing": 1 / 3, "searching": 1 / 6, "searching_right": 1 / 6}
)
"""Kinds of reflection with their default weights. ``vague`` admits a mistake; ``diagnosing`` says
what was wrong; ``searching`` looks for the answer in vain; ``searching_right`` finds it."""

_VAGUE_ENDING_SHARE = 0.5


def vague(sentences: Sequence[str], endings: Sequence[str], rng: random.Random) -> str:
    """Return a sentence that admits a mistake, half of the time with a good resolution after it."""
    sentence = rng.choice(sentences)
    if rng.random() < _VAGUE_ENDING_SHARE:
        return f"{sentence} {rng.choice(endings)}"
    return sentence


def check_weights(option: str, weights: Mapping[str, float], kinds: Collection[str]) -> None:
    """Check an option that gives weights to kinds.

    Raises:
        MulliganError: for an unknown kind, a negative weight, or no weight at all.
    """
    for kind, weight in weights.items():
        if kind not in kinds:
            raise MulliganError(f"{option} has no kind {kind!r}; {nearest(str(kind), kinds)}")
        if weight < 0:
            raise MulliganError(f"{option}: {kind!r} is {weight}, and should be 0 or more")
    if not sum(weights.values()) > 0:
        raise MulliganError(f"{option}: at least one kind needs a weight above 0")
