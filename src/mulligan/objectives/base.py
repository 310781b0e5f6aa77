"""What an objective is: three choices that combine.

A *reward* says what an episode is worth, a *learn* which tokens get the gradient, a *loss* how.
Each is a small class in a file of its own, found by name; the first line of its docstring is what
``mulligan objectives`` says of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from mulligan.config import Generate, Train
from mulligan.objectives.advantages import group_advantages, is_dead
from mulligan.types import Group, Span
from mulligan.verifiers.pool import Verifier

if TYPE_CHECKING:
    from torch import Tensor

Sampled = Literal["reflection", "reflection and retry", "first try"]
"""What a step samples for each of its failures."""


@dataclass(frozen=True)
class Evidence:
    """What a reward may ask, besides looking at the episodes."""

    seed: int
    """Of this step; what is drawn by chance derives from it."""
    verifier: Verifier
    """Of the task."""


class Reward(ABC):
    """What an episode is worth. Its options are keyword arguments of ``__init__``."""

    range: tuple[float, float] = (0.0, 1.0)
    """The smallest and the largest reward there can be."""
    needs_retry: ClassVar[bool] = True
    """Whether it looks at a retry, or else at the reflection alone, so that none is sampled."""

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


class Loss(ABC):
    """Makes a loss of spans and their advantages.

    Every loss is a sum over the batch divided by a number that is known before any forward. So a
    batch is a loop over groups, each with its own backward, and the sum of their losses is the
    batch's loss, whatever the grouping.

    Args:
        settings: the recipe's.
        longest: the most tokens of an episode that can learn.
    """

    whole_groups: ClassVar[bool] = False
    """Whether a group's spans must be scored in one forward, because the loss compares them."""

    def __init__(self, settings: Train, longest: int) -> None:
        self.settings = settings
        self.longest = longest

    @property
    def needs_reference(self) -> bool:
        """Whether it needs the reference policy, the one that training began with."""
        return self.settings.kl_beta > 0

    def advantages(self, rewards_G: Sequence[float]) -> tuple[float, ...]:
        """Return what the loss makes of a group's rewards: by default, group-normalised."""
        return group_advantages(rewards_G, scale=self.settings.scale_advantages)

    def teaches(self, rewards_G: Sequence[float]) -> bool:
        """Whether a group's rewards tell the loss anything: by default, whether they differ."""
        return not is_dead(rewards_G)

    @abstractmethod
    def normaliser(self, spans: Sequence[Span]) -> float:
        """Return what the batch's sum is divided by; ``spans`` are all of it, dead groups' too."""

    @abstractmethod
    def __call__(self, scores: Scores, normaliser: float) -> "tuple[Tensor, LossSums]":
        """Return the share of the batch's loss that some spans have, and its sums for metrics."""
