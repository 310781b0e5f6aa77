"""From scored groups to the policy's new weights: log-probs, losses, one optimiser step."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mulligan.config import Recipe
from mulligan.logprobs.shared_prompt import GroupScorer
from mulligan.objectives.base import Loss, Scores
from mulligan.objectives.spans import by_prompt
from mulligan.trainer.optimizer import PolicyOptimizer, Update
from mulligan.types import ScoredGroup, Span


@dataclass
class TokenSums:
    """What the losses of a step add up on the way."""

    tokens: int = 0
    kl: float = 0.0
    mismatch: float = 0.0
    compared: int = 0
    """Tokens whose log-prob the engine gave."""


@dataclass(frozen=True)
class Updater:
    """Updates a policy by a loss.

    Args:
        loss: of spans.
        optimizer: of the policy.
        scorer: scores tokens under the policy.
        reference: scores them under the reference policy; ``None`` where the loss needs none.
        temperature: at which tokens were sampled.
        keep_dead: whether groups that teach nothing take part, for the sake of their KL term.
    """

    loss: Loss
    optimizer: PolicyOptimizer
    scorer: GroupScorer
    reference: GroupScorer | None
    temperature: float
    keep_dead: bool

    def update(self, scored: Sequence[ScoredGroup]) -> tuple[Update, TokenSums]:
        """Take one optimiser step on a batch, and sum up what it was made of."""
        sums = TokenSums()
        return self.optimizer.step(self.losses(scored, sums)), sums

    def losses(self, scored: Sequence[ScoredGroup], sums: TokenSums) -> list[Callable[[], Tensor]]:
        """Return the batch's loss, a group or a part of one at a time.

        The normaliser counts every group. Dead groups have no advantage; whether their KL term is
        kept is the setting ``dead_groups``, and without a KL term there is nothing to keep.
        """
        normaliser = self.loss.normaliser([span for each in scored for span in each.spans])
        return [
            partial(self._loss, spans[part], normaliser, sums)
            for each in scored
            if each.teaches or self.keep_dead
            for spans in by_prompt(each.spans)
            for part in self._parts(spans)
        ]

    def _parts(self, spans: Sequence[Span]) -> list[slice]:
        if self.loss.whole_groups:
            return [slice(None)]
        return self.scorer.parts(spans[0].prompt_ids, [span.token_ids for span in spans])

    def _loss(self, spans: Sequence[Span], normaliser: float, sums: TokenSums) -> Tensor:
        """Return the share of the loss of some spans that share a prompt."""
        prompt_ids, token_ids = spans[0].prompt_ids, [span.token_ids for span in spans]
        learns = [span.learns for span in spans]
        logprobs_GR, mask_GR = self.scorer(prompt_ids, token_ids, self.temperature, learns)
        reference_GR = None
        if self.reference is not None:
            with torch.no_grad():
                reference_GR, _ = self.reference(prompt_ids, token_ids, self.temperature, learns)
        scores = Scores(
            logprobs_GR,
            mask_GR,
            [span.advantage for span in spans],
            reference_logprobs_GR=reference_GR,
        )
        loss, made_of = self.loss(scores, normaliser)
        sums.tokens += int(made_of.tokens)
        sums.kl += float(made_of.kl)
        for row, span in enumerate(spans):
            if span.logprobs is not None:
                sampled_R = logprobs_GR.new_tensor(span.logprobs)
                mask_R = mask_GR[row, : len(sampled_R)]
                scored_R = logprobs_GR.detach()[row, : len(sampled_R)]
                sums.mismatch += float((scored_R - sampled_R)[mask_R].abs().sum())
                sums.compared += int(mask_R.sum())
        return loss


def make_updater(policy: PreTrainedModel, loss: Loss, recipe: Recipe) -> Updater:
    """Return what updates a policy as a recipe says; the policy as it is now is the reference."""
    settings = recipe.train
    scorer = GroupScorer(policy, max_tokens=settings.tokens_at_once)
    optimizer = PolicyOptimizer(
        policy,
        learning_rate=settings.learning_rate,
        steps=settings.steps,
        schedule=settings.schedule,
        warmup_ratio=settings.warmup_ratio,
        first_step_learns=recipe.first_step_learns,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        average_from=settings.average_from,
        dtype=recipe.dtype,
    )
    return Updater(
        loss=loss,
        optimizer=optimizer,
        scorer=scorer,
        reference=GroupScorer(_frozen_copy(policy)) if loss.needs_reference else None,
        temperature=recipe.generate.temperature,
        keep_dead=settings.dead_groups == "keep" and settings.kl_beta > 0,
    )


def _frozen_copy(policy: PreTrainedModel) -> PreTrainedModel:
    """Return the reference policy: a copy of the weights, never trained."""
    copy = deepcopy(policy)
    copy.train(False)
    copy.requires_grad_(False)
    return copy
