import random
from collections.abc import Sequence

from mulligan.objectives.base import Evidence, Reward
from mulligan.objectives.rewards.verdict import passes
from mulligan.randomness import derive_seed
from mulligan.types import Group


class Shuffled(Reward):
    """The verdicts of each group in a random order: what is left when they say nothing.

    Groups that teach and the rewards in them are as many as with `verdict`, but which episode
    gets which reward is chance. A sharper control than a coin, whose groups differ in number.
    """

    def score(self, groups: Sequence[Group], evidence: Evidence) -> list[list[float | None]]:
        """Return the verdicts, permuted within each group."""
        rewards = [passes(group) for group in groups]
        for group, row in zip(groups, rewards, strict=True):
            random.Random(derive_seed(evidence.seed, "shuffled", group.failure.id)).shuffle(row)
        return rewards
