from collections.abc import Sequence
from typing import TYPE_CHECKING

from mulligan.objectives.base import Loss, LossSums, Scores
from mulligan.types import Span

if TYPE_CHECKING:
    from torch import Tensor


class Dpo(Loss):
    """Direct preference optimisation on the pairs of a group with different rewards.

    -log sigmoid(beta ((log pi/ref)(better) - (log pi/ref)(worse))), the mean over all pairs, with
    beta = `dpo_beta` (arXiv 2305.18290, equation 7). Log-probs are those of the policy as it
    samples, at the recipe's temperature.
    """

    whole_groups = True
    needs_one_prompt = True

    @property
    def needs_reference(self) -> bool:
        """Yes: pairs are judged by how far the policy left it."""
        return True

    def advantages(self, rewards_G: Sequence[float]) -> tuple[float, ...]:
        """Return rewards less their mean: which of two is better is all that counts."""
        mean = sum(rewards_G) / len(rewards_G)
        return tuple(reward - mean for reward in rewards_G)

    def normaliser(self, groups: Sequence[Sequence[Span]]) -> float:
        """Return the number of pairs."""
        return float(max(sum(len(_pairs([span.advantage for span in g])[0]) for g in groups), 1))

    def __call__(self, scores: Scores, normaliser: float) -> "tuple[Tensor, LossSums]":
        """Return the loss of all pairs of a group.

        Raises:
            ValueError: there are no reference log-probs.
        """
        if scores.reference_logprobs_GR is None:
            raise ValueError("the reference's log-probs are needed")
        moved_GR = (scores.logprobs_GR - scores.reference_logprobs_GR) * scores.mask_GR
        moved_G = moved_GR.sum(1)
        better, worse = _pairs(scores.advantages_G)
        margins = self.settings.dpo_beta * (moved_G[better] - moved_G[worse])
        return _softplus(-margins).sum() / normaliser, LossSums.of_tokens(scores.mask_GR)


def _softplus(values: "Tensor") -> "Tensor":
    """Return log(1 + exp(x)) = -log sigmoid(-x), which overflows for no x."""
    return values.clamp(min=0) + (-values.abs()).exp().log1p()


def _pairs(advantages_G: Sequence[float]) -> tuple[list[int], list[int]]:
    """Return the places of the better and of the worse one of every pair that differs."""
    size = range(len(advantages_G))
    pairs = [(i, j) for i in size for j in size if advantages_G[i] > advantages_G[j]]
    return [i for i, _ in pairs], [j for _, j in pairs]
