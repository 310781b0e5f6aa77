from collections.abc import Sequence

from mulligan.objectives.base import Evidence, Reward
from mulligan.objectives.rewards.verdict import passes
from mulligan.types import Group


class Inverted(Reward):
    """1 where the retry fails, else 0: the method upside down.

    Spurious Rewards (arXiv 2506.10947), which rewards wrong labels.
    """

    def score(self, groups: Sequence[Group], evidence: Evidence) -> list[list[float | None]]:
        """Return 1 less the verdict."""
        del evidence
        return [
            [None if passed is None else 1.0 - passed for passed in passes(group)]
            for group in groups
        ]
