"""How sure a model is of what comes next, without gradients."""

import math
from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from mulligan.types import TokenIds

Certainty = Callable[[TokenIds, Sequence[TokenIds]], list[float]]
"""The self-certainty of each completion of a prompt, in nats; none of them is empty."""


def certainty_of(model: PreTrainedModel) -> Certainty:
    """Return what measures self-certainty under a model, one completion at a time.

    Self-certainty is the mean over a completion's tokens of KL(uniform || p), with p the model's
    next-token distribution at temperature 1 (Intuitor, arXiv 2505.19590, equation 2):

        KL(uniform || p) = logsumexp(logits) - mean(logits) - log(V)

    0 where every token is as likely as any other, and the larger, the surer the model is.
    """

    @torch.no_grad()
    def certainty(prompt_ids: TokenIds, completions: Sequence[TokenIds]) -> list[float]:
        return [_certainty(model, prompt_ids, ids) for ids in completions]

    return certainty


def _certainty(model: PreTrainedModel, prompt_ids: TokenIds, ids: TokenIds) -> float:
    row = torch.tensor([[*prompt_ids, *ids]], device=model.device)
    logits_RV = model(input_ids=row, use_cache=False, logits_to_keep=len(ids) + 1).logits[0, :-1]
    logits_RV = logits_RV.float()
    above_mean_R = logits_RV.logsumexp(-1) - logits_RV.mean(-1)
    # Rounding can leave it below 0 by a little where the distribution is uniform.
    return max(float(above_mean_R.mean()) - math.log(logits_RV.shape[-1]), 0.0)
