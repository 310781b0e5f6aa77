from collections.abc import Sequence

from mulligan.objectives.base import Evidence, Reward
from mulligan.objectives.rewards.verdict import passes
from mulligan.types import Group


class VerdictWithoutLeak(Reward):
    """1 where the retry passes and the reflection states no passing answer, else 0.

    It takes the reward away from reflections that solve the problem rather than say what went
    wrong; whether one states a passing answer is the task's `leaks`.
    """

    needs_reflection = True

    def score(self, groups: Sequence[Group], evidence: Evidence) -> list[list[float | None]]:
        """Return the verdicts, with 0 for a pass after a leak."""
        rewards = [passes(group) for group in groups]
        passing = [
            (row, number, group.failure.attempt.problem, episode.reflection.text)
            for row, group in enumerate(groups)
            for number, episode in enumerate(group.episodes)
            if rewards[row][number] and episode.reflection is not None
        ]
        leaks = evidence.verifier.leaks_many([(problem, text) for _, _, problem, text in passing])
        for (row, number, _, _), leaked in zip(passing, leaks, strict=True):
            rewards[row][number] = None if leaked is None else float(not leaked)
        return rewards
