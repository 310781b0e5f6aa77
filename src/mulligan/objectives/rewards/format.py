from collections.abc import Sequence

from mulligan.objectives.base import Evidence, Reward
from mulligan.types import Group


class Format(Reward):
    """1 where the retry can be read, right or wrong, else 0.

    Spurious Rewards (arXiv 2506.10947): how much of a gain is a matter of form.
    """

    def score(self, groups: Sequence[Group], evidence: Evidence) -> list[list[float | None]]:
        """Return 0 for a retry in which no answer can be read, else 1."""
        del evidence
        return [
            [
                None if e.verdict is None else float(e.verdict.status != "unparseable")
                for e in group.episodes
            ]
            for group in groups
        ]
