"""The GRPO loss of one group, or a part of one, scaled so that a batch's groups simply add up.

Per token, with the ratio rho = exp(logprob - old_logprob) (DeepSeekMath, arXiv 2402.03300):

    -min(rho A, clip(rho, 1 - epsilon_low, 1 + epsilon_high) A) + beta rho KL
    KL = exp(ref - logprob) - (ref - logprob) - 1

The rho before KL makes the gradient that of the reverse KL, without bias (DeepSeek-V3.2,
arXiv 2512.02556). Its value is 1 on policy, yet it changes the gradient; TRL 1.16 has it too.

Every kind of loss is a sum over the batch divided by a number that is known before any forward
(``loss_normaliser``). So a batch is a loop over groups, each with its own backward, and the sum of
their losses is the batch's loss, whatever the grouping.

Dead groups, whose rewards are all equal, have A = 0. With beta = 0 their gradient is exactly zero,
and leaving them out changes nothing, because the normaliser still counts their tokens, as TRL's
does. With beta > 0 they carry the gradient of the KL term alone: leaving them out is then a choice,
which restricts the pull towards the reference to groups that teach something.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LossKind = Literal["dapo", "grpo", "dr_grpo"]
"""What a token weighs: ``dapo``: the same as any other of the batch (TRL's default); ``grpo``: one
over its completion's length; ``dr_grpo``: the same everywhere, whatever is sampled."""


@dataclass(frozen=True, slots=True)
class LossSums:
    """What a loss was made of, as sums over tokens, so that groups can be added up."""

    tokens: Tensor
    kl: Tensor
    clipped_low: Tensor
    clipped_high: Tensor


def loss_normaliser(kind: LossKind, lengths: Sequence[int], max_completion_tokens: int) -> float:
    """Return what the batch's sum is divided by.

    Args:
        kind: which loss.
        lengths: the tokens of every completion of the batch, dead groups included.
        max_completion_tokens: the limit on sampling; used by ``dr_grpo`` only.
    """
    if kind == "dapo":
        return float(max(sum(lengths), 1))
    if kind == "grpo":
        return float(len(lengths))
    return float(len(lengths) * max_completion_tokens)


def grpo_loss(
    logprobs_GR: Tensor,
    mask_GR: Tensor,
    advantages_G: Sequence[float],
    normaliser: float,
    *,
    kind: LossKind = "dapo",
    old_logprobs_GR: Tensor | None = None,
    ref_logprobs_GR: Tensor | None = None,
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.2,
    beta: float = 0.0,
    unbiased_kl: bool = True,
) -> tuple[Tensor, LossSums]:
    """Return the group's share of the batch's loss, and its sums for metrics.

    Args:
        logprobs_GR: log-probability of each completion token under the policy, differentiable.
        mask_GR: true where there is a token.
        advantages_G: one number for each completion.
        normaliser: from ``loss_normaliser``, over the whole batch.
        kind: which loss.
        old_logprobs_GR: under the policy that sampled; ``None`` when that is the policy itself,
            as with one update per rollout. The ratio is then 1 and only its gradient counts.
        ref_logprobs_GR: under the reference policy; needed when ``beta`` is not 0.
        epsilon_low: how far the ratio may fall below 1.
        epsilon_high: how far the ratio may rise above 1.
        beta: coefficient of the KL term; 0 switches the reference off.
        unbiased_kl: weigh the KL term by the ratio; without, it is GRPO's as first published.

    Raises:
        ValueError: ``beta`` is not 0 and there are no reference log-probs.
    """
    advantages_G1 = logprobs_GR.new_tensor(advantages_G).unsqueeze(1)
    old_GR = logprobs_GR.detach() if old_logprobs_GR is None else old_logprobs_GR
    ratio_GR = torch.exp(logprobs_GR - old_GR)
    clipped_GR = ratio_GR.clamp(1 - epsilon_low, 1 + epsilon_high)
    loss_GR = -torch.min(ratio_GR * advantages_G1, clipped_GR * advantages_G1)
    kl_GR = torch.zeros_like(loss_GR)
    if beta != 0.0:
        if ref_logprobs_GR is None:
            raise ValueError("beta is not 0, so the reference policy's log-probs are needed")
        kl_GR = kl_estimate(logprobs_GR, ref_logprobs_GR)
        loss_GR = loss_GR + beta * (ratio_GR * kl_GR if unbiased_kl else kl_GR)
    low_GR = (ratio_GR < 1 - epsilon_low) & (advantages_G1 < 0) & mask_GR
    high_GR = (ratio_GR > 1 + epsilon_high) & (advantages_G1 > 0) & mask_GR
    sums = LossSums(
        tokens=mask_GR.sum(),
        kl=kl_GR.detach().masked_fill(~mask_GR, 0.0).sum(),
        clipped_low=low_GR.sum(),
        clipped_high=high_GR.sum(),
    )
    loss_GR = loss_GR.masked_fill(~mask_GR, 0.0)
    if kind == "grpo":
        loss_GR = loss_GR / mask_GR.sum(1, keepdim=True).clamp(min=1)
    return loss_GR.sum() / normaliser, sums


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Return Schulman's k3 estimate of KL(policy || reference), token by token; never negative."""
    difference = ref_logprobs - logprobs
    return torch.exp(difference) - difference - 1
