"""The clipped policy gradient that the GRPO losses share; they differ in what a token weighs.

Per token, with the ratio rho = exp(logprob - old_logprob) (DeepSeekMath, arXiv 2402.03300):

    -min(rho A, clip(rho, 1 - epsilon_low, 1 + epsilon_high) A) + beta KL
    KL = exp(ref - logprob) - (ref - logprob) - 1

With ``kl_form: unbiased`` the KL term is multiplied by rho, which makes its gradient that of the
reverse KL, without bias (DeepSeek-V3.2, arXiv 2512.02556). Its value is 1 on policy, yet it changes
the gradient; TRL 1.16 has it too. ``k3`` is the form that GRPO was published with.

Where the engine's log-probs differ from the trainer's, the first term is multiplied by
min(exp(old_logprob - engine_logprob), C): truncated importance weights (Yao et al., Your Efficient
RL Framework Secretly Brings You Off-Policy RL Training, 2025).

Groups whose rewards are all equal have A = 0. With beta = 0 their gradient is exactly zero, and
leaving them out changes nothing, because the normaliser still counts their tokens, as TRL's does.
With beta > 0 they carry the gradient of the KL term alone: leaving them out is then a choice, which
restricts the pull towards the reference to groups that teach something.
"""

from abc import abstractmethod
from typing import TYPE_CHECKING

from mulligan.objectives.base import Loss, LossSums, Scores

if TYPE_CHECKING:
    from torch import Tensor


class PolicyGradient(Loss):
    """The clipped policy gradient."""

    policy_gradient = True

    @abstractmethod
    def weigh(self, loss_GR: "Tensor", mask_GR: "Tensor") -> "Tensor":
        """Return token losses, 0 where nothing learns, weighed against each other."""

    def __call__(self, scores: Scores, normaliser: float) -> "tuple[Tensor, LossSums]":
        """Return the loss of some spans.

        Raises:
            ValueError: ``kl_beta`` is not 0 and there are no reference log-probs.
        """
        settings, logprobs_GR, mask_GR = self.settings, scores.logprobs_GR, scores.mask_GR
        advantages_G1 = logprobs_GR.new_tensor(scores.advantages_G).unsqueeze(1)
        old_GR = scores.old_logprobs_GR
        ratio_GR = (logprobs_GR - (logprobs_GR.detach() if old_GR is None else old_GR)).exp()
        clipped_GR = ratio_GR.clamp(1 - settings.epsilon_low, 1 + settings.epsilon_high)
        loss_GR = -(ratio_GR * advantages_G1).minimum(clipped_GR * advantages_G1)
        capped_GR = mask_GR & ~mask_GR
        if scores.engine_logprobs_GR is not None:
            sampled_GR = logprobs_GR.detach() if old_GR is None else old_GR
            weights_GR = (sampled_GR - scores.engine_logprobs_GR).exp()
            capped_GR = (weights_GR > settings.importance_cap) & mask_GR
            loss_GR = loss_GR * weights_GR.clamp(max=settings.importance_cap)
        kl_GR = loss_GR.new_zeros(loss_GR.shape)
        if self.needs_reference:
            if scores.reference_logprobs_GR is None:
                raise ValueError("kl_beta is not 0, so the reference's log-probs are needed")
            kl_GR = kl_estimate(logprobs_GR, scores.reference_logprobs_GR)
            weighed_GR = ratio_GR * kl_GR if settings.kl_form == "unbiased" else kl_GR
            loss_GR = loss_GR + settings.kl_beta * weighed_GR
        low_GR = (ratio_GR < 1 - settings.epsilon_low) & (advantages_G1 < 0)
        high_GR = (ratio_GR > 1 + settings.epsilon_high) & (advantages_G1 > 0)
        sums = LossSums(
            tokens=mask_GR.sum(),
            kl=kl_GR.detach().masked_fill(~mask_GR, 0.0).sum(),
            clipped=((low_GR | high_GR) & mask_GR).sum(),
            capped=capped_GR.sum(),
        )
        weighed_GR = self.weigh(loss_GR.masked_fill(~mask_GR, 0.0), mask_GR)
        return weighed_GR.sum() / normaliser, sums


def kl_estimate(logprobs: "Tensor", reference: "Tensor") -> "Tensor":
    """Return Schulman's k3 estimate of KL(policy || reference), token by token; never negative."""
    difference = reference - logprobs
    return difference.exp() - difference - 1
