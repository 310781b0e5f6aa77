"""How likely whole answers are, without gradients."""

from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from mulligan.logprobs.shared_prompt import GroupScorer
from mulligan.types import TokenIds

Likelihood = Callable[[TokenIds, Sequence[TokenIds]], list[float]]
"""The log-probability of each completion of a prompt, in nats."""


def likelihood_of(model: PreTrainedModel) -> Likelihood:
    """Return what scores completions under a model; the prompt is computed once for all of them."""
    score = GroupScorer(model)

    @torch.no_grad()
    def likelihood(prompt_ids: TokenIds, completions: Sequence[TokenIds]) -> list[float]:
        logprobs_GR, _ = score(prompt_ids, completions)
        totals: list[float] = logprobs_GR.double().sum(1).tolist()
        return totals

    return likelihood
