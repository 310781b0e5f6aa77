"""The three choices of a recipe, together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mulligan.config import Recipe, Train
from mulligan.errors import MulliganError
from mulligan.objectives.base import Evidence, Learn, Loss, Reward, Sampled
from mulligan.objectives.own_reward import OwnReward
from mulligan.objectives.registry import find, make_reward
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
                spans = tuple(self.learn.spans(kept, advantages, self.mask_truncated))
                self._require_one_prompt(kept, len({span.prompt_ids for span in spans}))
                teaches = self.loss.teaches(rewards)
                scored.append(ScoredGroup(kept, rewards, advantages, spans, teaches))
        return scored

    def _require_one_prompt(self, group: Group, prompts: int) -> None:
        if self.loss.needs_one_prompt and prompts > 1:
            raise MulliganError(
                f"The episodes of failure {group.failure.id} follow {prompts} different prompts, "
                "because the chat template rewrites earlier turns, and the loss compares episodes "
                "after one prompt. Use train.learn=reflection, or another loss."
            )


def make_objective(recipe: Recipe) -> Objective:
    """Make the objective that a recipe asks for.

    Raises:
        MulliganError: it names something unknown, or choices that mean nothing together.
    """
    settings = recipe.train
    reward = _reward(recipe)
    learn = find(Learn, settings.learn)()  # type: ignore[type-abstract]
    loss = find(Loss, settings.loss)  # type: ignore[type-abstract]
    for meaningless, reason in _combinations(settings, reward, learn, loss):
        if meaningless:
            raise MulliganError(
                f"{reason} (train.reward={settings.reward}, "
                f"train.learn={settings.learn}, train.loss={settings.loss})"
            )
    return Objective(
        reward=reward,
        learn=learn,
        loss=loss(settings, learn.longest(recipe.generate), reward.range),
        mask_truncated=settings.mask_truncated,
    )


def _reward(recipe: Recipe) -> Reward:
    name, options = recipe.train.reward, recipe.train.reward_options
    if ".py:" not in name:
        return make_reward(name, options)
    if options:
        raise MulliganError(
            "A reward function of your own takes no train.reward_options: write them in its file."
        )
    return OwnReward(name, recipe.verify)


def _combinations(
    settings: Train, reward: Reward, learn: Learn, loss: type[Loss]
) -> list[tuple[bool, str]]:
    """Return what would mean nothing, whether it is asked for, and why it means nothing."""
    return [
        (
            learn.samples == "first try" and reward.needs_reflection,
            "A first try has no reflection, and this reward looks at one.",
        ),
        (
            learn.learns_retry and not reward.needs_retry,
            "This reward looks at the reflection alone, so no retry is sampled that could learn.",
        ),
        (
            loss.needs_one_prompt and not learn.one_prompt,
            "Every retry follows a reflection of its own, so no two of them answer the same "
            "prompt, and this loss compares answers to one prompt.",
        ),
        (
            loss.needs_passes and not reward.has_passes,
            "This loss trains on what passes, and this reward does not say what passes.",
        ),
        (
            settings.positive_only and not loss.policy_gradient,
            "train.positive_only is for the losses that have advantages below 0: "
            "leave it out with this one.",
        ),
        (
            settings.kl_beta > 0 and not loss.policy_gradient,
            "This loss has no KL term: set train.kl_beta=0.",
        ),
        (
            settings.importance_weights is True and not loss.policy_gradient,
            "This loss has no ratio to weigh: leave train.importance_weights out.",
        ),
    ]


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
