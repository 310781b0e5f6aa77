"""What an objective is: three choices that combine.

A *reward* says what an episode is worth, a *learn* which tokens get the gradient, a *loss* how.
Each is a small class in a file of its own, found by name; the first line of its docstring is what
``mulligan objectives`` says of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from mulligan.config import Generate, Train
from mulligan.episodes.conversation import Conversations
from mulligan.objectives.advantages import group_advantages, is_dead
from mulligan.tasks.base import Task
from mulligan.types import Group, Problem, Span
from mulligan.verifiers.pool import Verifier

if TYPE_CHECKING:
    from torch import Tensor

    from mulligan.logprobs.certainty import Certainty
    from mulligan.logprobs.likelihood import Likelihood

Sampled = Literal["reflection", "reflection and retry", "first try"]
"""What a step samples for each of its failures."""


@dataclass(frozen=True)
class Evidence:
    """What a reward may ask, besides looking at the episodes."""

    seed: int
    """Of this step; what is drawn by chance derives from it."""
    verifier: Verifier
    """Of the task."""
    conversations: Conversations
    """Makes prompts of what was said."""
    likelihood: "Likelihood"
    """Of completions under the present policy."""
    certainty: "Certainty"
    """Of completions under the present policy."""


class Reward(ABC):
    """What an episode is worth. Its options are keyword arguments of ``__init__``."""

    range: tuple[float, float] = (0.0, 1.0)
    """The smallest and the largest reward there can be."""
    needs_retry: bool = True
    """Whether it looks at a retry, or else at the reflection alone, so that none is sampled."""
    needs_reflection: bool = False
    """Whether it looks at the reflection."""
    has_passes: bool = True
    """Whether a reward above the middle of the range means that something passed."""
    asks_policy: bool = False
    """Whether it asks for likelihood or certainty, which takes the whole policy in one process."""

    def check(self, task: Task, problems: Iterable[Problem]) -> None:
        """Refuse, before anything is done, a task or training problems that it cannot reward.

        Raises:
            MulliganError: saying what is missing.
        """
        del task, problems

    def close(self) -> None:  # noqa: B027 (most rewards have nothing to end)
        """End what it has started, such as processes; a second call does nothing."""

    @abstractmethod
    def score(
        self, groups: Sequence[Group], evidence: Evidence
    ) -> Sequence[Sequence[float | None]]:
        """Return a reward for each episode of each group; ``None`` leaves an episode out.

        An episode is left out where nothing can be said about it, such as when the verifier broke.
        """


class Learn(ABC):
    """Which tokens of an episode get the gradient."""

    samples: ClassVar[Sampled] = "reflection and retry"
    """What has to be sampled."""
    learns_retry: ClassVar[bool] = False
    """Whether tokens of a retry after a reflection are among them."""
    one_prompt: ClassVar[bool] = True
    """Whether what learns in a group follows the same prompt."""

    @abstractmethod
    def spans(
        self, group: Group, advantages_G: Sequence[float], mask_truncated: bool
    ) -> list[Span]:
        """Lay the episodes of a group out for the loss.

        Args:
            group: its episodes.
            advantages_G: one for each.
            mask_truncated: whether completions that the token limit cut off learn nothing.
        """

    @abstractmethod
    def longest(self, generate: Generate) -> int:
        """Return the most tokens of an episode that can learn."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What a loss is made of: G spans that share a prompt, R tokens at most."""

    logprobs_GR: "Tensor"
    """Log-probability of each token under the policy, differentiable; 0 where it is not scored."""
    mask_GR: "Tensor"
    """True where a token learns."""
    advantages_G: Sequence[float]
    old_logprobs_GR: "Tensor | None" = None
    """Under the policy that sampled; ``None`` when that is the policy itself, as in the first
    update on a rollout. The ratio is then 1 and only its gradient counts."""
    engine_logprobs_GR: "Tensor | None" = None
    """As the engine gave them, where the loss is to weigh by importance."""
    reference_logprobs_GR: "Tensor | None" = None
    """Under the reference policy, where the loss needs it."""


@dataclass(frozen=True, slots=True)
class LossSums:
    """What a loss was made of, as sums over tokens, so that groups can be added up."""

    tokens: "Tensor"
    kl: "Tensor"
    clipped: "Tensor"
    """Tokens whose ratio was clipped."""
    capped: "Tensor"
    """Tokens whose importance weight was capped."""

    @classmethod
    def of_tokens(cls, mask_GR: "Tensor") -> Self:
        """Return the sums of a loss without ratios and without a KL term."""
        none = mask_GR.sum() * 0
        return cls(mask_GR.sum(), none, none, none)


class Loss(ABC):
    """Makes a loss of spans and their advantages.

    Every loss is a sum over the batch divided by a number that is known before any forward. So a
    batch is a loop over groups, each with its own backward, and the sum of their losses is the
    batch's loss, whatever the grouping.

    Args:
        settings: the recipe's.
        longest: the most tokens of an episode that can learn.
        reward_range: the smallest and the largest reward there can be.
    """

    whole_groups: ClassVar[bool] = False
    """Whether a group's spans must be scored in one forward, because the loss compares them."""
    needs_one_prompt: ClassVar[bool] = False
    """Whether all that learns in a group must follow the same prompt."""
    needs_passes: ClassVar[bool] = False
    """Whether it needs rewards that say what passed."""
    policy_gradient: ClassVar[bool] = False
    """Whether it is a policy gradient: with a ratio, a KL term, and advantages of both signs."""

    def __init__(self, settings: Train, longest: int, reward_range: tuple[float, float]) -> None:
        self.settings = settings
        self.longest = longest
        self.passing = sum(reward_range) / 2

    @property
    def needs_reference(self) -> bool:
        """Whether it needs the reference policy, the one that training began with."""
        return self.settings.kl_beta > 0

    def advantages(self, rewards_G: Sequence[float]) -> tuple[float, ...]:
        """Return what the loss makes of a group's rewards: by default, group-normalised."""
        advantages_G = group_advantages(rewards_G, scale=self.settings.scale_advantages)
        if self.settings.positive_only:
            return tuple(max(advantage, 0.0) for advantage in advantages_G)
        return advantages_G

    def teaches(self, rewards_G: Sequence[float]) -> bool:
        """Whether a group's rewards tell the loss anything: by default, whether they differ."""
        return not is_dead(rewards_G)

    @abstractmethod
    def normaliser(self, groups: Sequence[Sequence[Span]]) -> float:
        """Return what the batch's sum is divided by, from the spans of all its groups."""

    @abstractmethod
    def __call__(self, scores: Scores, normaliser: float) -> "tuple[Tensor, LossSums]":
        """Return the share of the batch's loss that some spans have, and its sums for metrics."""
