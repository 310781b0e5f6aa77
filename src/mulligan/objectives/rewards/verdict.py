from collections.abc import Sequence

from mulligan.objectives.base import Evidence, Reward
from mulligan.types import Group


class Verdict(Reward):
    """1 where the retry passes, else 0: the method.

    Bensal et al., Reflect, Retry, Reward (arXiv 2505.24726).
    """

    def score(self, groups: Sequence[Group], evidence: Evidence) -> list[list[float | None]]:
        """Return 1 for a passing retry, 0 for any other that could be judged."""
        del evidence
        return [passes(group) for group in groups]


def passes(group: Group) -> list[float | None]:
    """Return 1 for each passing retry of a group, else 0; ``None`` where there is no verdict."""
    return [
        None if episode.verdict is None else float(episode.verdict.passed)
        for episode in group.episodes
    ]
