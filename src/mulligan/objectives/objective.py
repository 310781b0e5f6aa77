"""The three choices of a recipe, together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mulligan.config import Recipe
from mulligan.errors import MulliganError
from mulligan.objectives.base import Evidence, Learn, Loss, Reward, Sampled
from mulligan.objectives.registry import find
from mulligan.types import Group, ScoredGroup


@dataclass(frozen=True)
class Objective:
    """What is rewarded, which tokens learn, and how."""

    reward: Reward
    learn: Learn
    loss: Loss
    mask_truncated: bool

    @property
    def samples(self) -> Sampled:
        """What has to be sampled for each failure of a step."""
        if self.learn.samples == "reflection and retry" and not self.reward.needs_retry:
            return "reflection"
        return self.learn.samples

    def score(self, groups: Sequence[Group], evidence: Evidence) -> list[ScoredGroup]:
        """Reward some groups, and lay them out for the loss.

        An episode that cannot be rewarded is left out; so is a group without any.

        Raises:
            MulliganError: a reward is not a finite number in its range.
        """
        scored = []
        for group, found in zip(groups, self.reward.score(groups, evidence), strict=True):
            kept, rewards = _rewarded(group, found, self.reward)
            if rewards:
                advantages = self.loss.advantages(rewards)
                spans = self.learn.spans(kept, advantages, self.mask_truncated)
                teaches = self.loss.teaches(rewards)
                scored.append(ScoredGroup(kept, rewards, advantages, tuple(spans), teaches))
        return scored


def make_objective(recipe: Recipe) -> Objective:
    """Make the objective that a recipe asks for.

    Raises:
        MulliganError: it names something unknown.
    """
    settings = recipe.train
    learn = find(Learn, settings.learn)()  # type: ignore[type-abstract]
    loss = find(Loss, settings.loss)  # type: ignore[type-abstract]
    return Objective(
        reward=find(Reward, settings.reward)(),  # type: ignore[type-abstract]
        learn=learn,
        loss=loss(settings, learn.longest(recipe.generate)),
        mask_truncated=settings.mask_truncated,
    )


def _rewarded(
    group: Group, found: Sequence[float | None], reward: Reward
) -> tuple[Group, tuple[float, ...]]:
    """Return a group without the episodes that have no reward, and the rewards of the others."""
    low, high = reward.range
    for episode, value in zip(group.episodes, found, strict=True):
        if value is not None and not (math.isfinite(value) and low <= value <= high):
            raise MulliganError(
                f"The reward of episode {episode.sample} of failure {episode.failure_id} is "
                f"{value}, where a finite number from {low:g} to {high:g} was expected. "
                "Nothing of this step is trained on: correct the reward, then use --resume."
            )
    keep = [number for number, value in enumerate(found) if value is not None]
    prompts = group.retry_prompts_G
    kept = replace(
        group,
        episodes=tuple(group.episodes[number] for number in keep),
        retry_prompts_G=tuple(prompts[number] for number in keep) if prompts else (),
    )
    return kept, tuple(float(value) for value in found if value is not None)
