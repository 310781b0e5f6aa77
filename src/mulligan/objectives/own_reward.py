"""A reward that is a function of the user's own: ``my_reward.py:name``."""

from collections.abc import Sequence

from mulligan.config import Verify
from mulligan.errors import MulliganError
from mulligan.objectives.base import Evidence, Reward
from mulligan.types import Completion, Episode, Group, SeenEpisode
from mulligan.verifiers.limits import limits_of
from mulligan.verifiers.reward_function import IsolatedReward, RewardFunction


class OwnReward(Reward):
    """What a function of the user's own says; it runs in processes that can be killed.

    Args:
        spec: ``file.py:name``.
        settings: how many processes, and what they may use.

    Raises:
        MulliganError: there is no such function.
    """

    def __init__(self, spec: str, settings: Verify) -> None:
        self.spec = spec
        self.range = RewardFunction(spec).range
        self._workers = IsolatedReward(spec, settings.workers, limits_of(settings))

    def score(self, groups: Sequence[Group], evidence: Evidence) -> list[list[float | None]]:
        """Return what the function says of each episode.

        Raises:
            MulliganError: it broke on an episode, which is named.
        """
        del evidence
        seen = [_seen(group, episode) for group in groups for episode in group.episodes]
        found = iter(self._workers.score_many(seen))
        return [[self._number(episode, next(found)) for episode in g.episodes] for g in groups]

    def _number(self, episode: Episode, value: float | str) -> float:
        if isinstance(value, str):
            raise MulliganError(
                f"The reward {self.spec} broke on episode {episode.sample} of failure "
                f"{episode.failure_id}: {value}. Nothing of this step is trained on: correct the "
                "function, then use --resume."
            )
        return value

    def close(self) -> None:
        """End the processes."""
        self._workers.close()


def _seen(group: Group, episode: Episode) -> SeenEpisode:
    tried = group.failure.attempt
    afresh = episode.reflection is None
    return SeenEpisode(
        problem=tried.problem,
        attempt="" if afresh else tried.completion.text,
        reflection=_text(episode.reflection),
        retry=_text(episode.retry),
        verdict=episode.verdict,
    )


def _text(completion: Completion | None) -> str:
    return "" if completion is None else completion.text
