import math
from collections.abc import Sequence

from mulligan.errors import MulliganError
from mulligan.objectives.base import Evidence, Reward
from mulligan.types import Completion, Episode, Group, TokenIds


class SelfCertainty(Reward):
    """How sure the present policy is of its own reflection, or of its retry; no verifier is asked.

    The mean over tokens of KL(uniform || p): Intuitor (arXiv 2505.19590). Its authors found that
    it has to be scored by the policy as it is now: a frozen scorer is soon deceived.
    """

    range = (0.0, math.inf)
    has_passes = False
    asks_policy = True

    def __init__(self, of: str = "reflection") -> None:
        if of not in ("reflection", "retry"):
            raise MulliganError(
                f"The reward 'self_certainty' scores the reflection or the retry, not {of!r}."
            )
        self.of = of
        self.needs_reflection = of == "reflection"
        self.needs_retry = of == "retry"

    def score(self, groups: Sequence[Group], evidence: Evidence) -> list[list[float | None]]:
        """Return the certainty of each completion; an empty one, which did not fit, has none."""
        return [
            [
                evidence.certainty(prompt_ids, [said.token_ids])[0] if said.token_ids else None
                for prompt_ids, said in self._said(group)
            ]
            for group in groups
        ]

    def _said(self, group: Group) -> list[tuple[TokenIds, Completion]]:
        prompts = group.retry_prompts_G if self.of == "retry" else ()
        prompts = prompts or (group.prompt_ids,) * len(group.episodes)
        return [
            (prompt_ids, self._completion(episode))
            for prompt_ids, episode in zip(prompts, group.episodes, strict=True)
        ]

    def _completion(self, episode: Episode) -> Completion:
        said = episode.reflection if self.of == "reflection" else episode.retry
        assert said is not None
        return said
