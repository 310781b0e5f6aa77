import random
from collections.abc import Sequence

from mulligan.errors import MulliganError
from mulligan.objectives.base import Evidence, Reward
from mulligan.randomness import derive_seed
from mulligan.types import Group


class Random(Reward):
    """1 with a probability of `rate`, whatever the episode.

    Spurious Rewards (arXiv 2506.10947), where the rate is 0.5.
    """

    def __init__(self, rate: float = 0.5) -> None:
        if not 0 < rate < 1:
            raise MulliganError(
                f"The rate of the reward 'random' is {rate}; it should be above 0 and below "
                "1, because otherwise no two rewards differ."
            )
        self.rate = rate

    def score(self, groups: Sequence[Group], evidence: Evidence) -> list[list[float | None]]:
        """Return a seeded coin for each episode."""
        return [
            [
                float(self._drawn(evidence.seed, group.failure.id, episode.sample) < self.rate)
                for episode in group.episodes
            ]
            for group in groups
        ]

    def _drawn(self, seed: int, failure_id: str, sample: int) -> float:
        return random.Random(derive_seed(seed, "random", failure_id, sample)).random()
