from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

from mulligan.objectives.base import Loss, LossSums, Scores
from mulligan.types import Span

if TYPE_CHECKING:
    from torch import Tensor


class Raft(Loss):
    """Fine-tuning on what passes: the mean negative log-likelihood of its tokens.

    RAFT (arXiv 2304.06767). What passes has a reward above the middle of the reward's range; what
    does not is left out. A group in which everything passes teaches too.
    """

    needs_passes = True

    @property
    def needs_reference(self) -> bool:
        """No: it has no KL term."""
        return False

    def advantages(self, rewards_G: Sequence[float]) -> tuple[float, ...]:
        """Return 1 for what passes and 0 for what does not."""
        return tuple(float(reward > self.passing) for reward in rewards_G)

    def teaches(self, rewards_G: Sequence[float]) -> bool:
        """Whether anything passes."""
        return any(self.advantages(rewards_G))

    def normaliser(self, groups: Sequence[Sequence[Span]]) -> float:
        """Return the number of tokens that are trained on."""
        spans = chain.from_iterable(groups)
        return float(max(sum(sum(span.learns) for span in spans if span.advantage), 1))

    def __call__(self, scores: Scores, normaliser: float) -> "tuple[Tensor, LossSums]":
        """Return the loss of some spans."""
        advantages_G1 = scores.logprobs_GR.new_tensor(scores.advantages_G).unsqueeze(1)
        loss_GR = -(scores.logprobs_GR * advantages_G1).masked_fill(~scores.mask_GR, 0.0)
        return loss_GR.sum() / normaliser, LossSums.of_tokens(scores.mask_GR)
