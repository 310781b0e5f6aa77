"""From scored groups to the policy's new weights: log-probs, losses, one optimiser step."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import astuple, dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mulligan.config import Recipe
from mulligan.errors import MulliganError
from mulligan.logprobs.packing import PromptGroup
from mulligan.logprobs.shared_prompt import GroupScorer, Path
from mulligan.models.heap import map_large_blocks
from mulligan.models.load import pick_device
from mulligan.models.policies import Policy
from mulligan.models.shards import has_shards
from mulligan.objectives.base import Loss, Scores
from mulligan.objectives.spans import by_prompt
from mulligan.trainer.distributed import ALONE, Processes
from mulligan.trainer.optimizer import PolicyOptimizer, Update
from mulligan.types import ScoredGroup, Span


@dataclass
class TokenSums:
    """What the losses of a step add up on the way."""

    tokens: float = 0
    kl: float = 0.0
    clipped: float = 0
    capped: float = 0
    mismatch: float = 0.0
    compared: float = 0
    """Tokens whose log-prob the engine gave."""


@dataclass(frozen=True)
class Updater:
    """Updates a policy by a loss.

    Args:
        loss: of spans.
        optimizer: of the policy.
        scorer: scores tokens under the policy.
        reference: scores them under the reference policy, within ``as_reference``; ``None`` where
            the loss needs none.
        as_reference: while this lasts, the reference is what the policy was at first.
        temperature: at which tokens were sampled.
        keep_dead: whether groups that teach nothing take part, for the sake of their KL term.
        epochs: optimiser steps on a batch.
        weigh: whether tokens are weighted by importance.
        processes: share the losses of a step.
        pack: whether several groups may go through the policy in one pass.
    """

    loss: Loss
    optimizer: PolicyOptimizer
    scorer: GroupScorer
    reference: GroupScorer | None
    as_reference: Callable[[], AbstractContextManager[None]]
    temperature: float
    keep_dead: bool
    epochs: int = 1
    weigh: bool = False
    processes: Processes = ALONE
    pack: bool = True

    def update(self, scored: Sequence[ScoredGroup]) -> tuple[Update, TokenSums]:
        """Take the optimiser steps on a batch, and sum up what they were made of.

        Raises:
            MulliganError: importance weights are asked for, and the engine gave no log-probs.
        """
        with self.processes.answered():
            sums, losses = TokenSums(), self._share(self.losses(scored))
            first = self.optimizer.step(partial(loss, sums) for loss in losses)
            later = [
                self.optimizer.step(partial(loss, sums) for loss in losses)
                for _ in range(self.epochs - 1)
            ]
            return _together([first, *later]), TokenSums(*self.processes.sum(astuple(sums)))

    @property
    def _sharded(self) -> bool:
        return has_shards(self.optimizer.policy)

    def _share(self, losses: "Sequence[_PassLoss]") -> "Sequence[Callable[[TokenSums], Tensor]]":
        """Return this process's losses; through shards all processes have to go equally often."""
        if self._sharded:
            return self.processes.share_equally(losses, self._empty_pass)
        return self.processes.share(losses)

    def _empty_pass(self, sums: TokenSums) -> Tensor:
        """Go through the models as a pass does, score nothing, and return a loss of zero."""
        del sums
        [(logprobs_GR, _)] = self.scorer.score([_NOTHING])
        if self.reference is not None:
            with torch.no_grad(), self.as_reference():
                self.reference.score([_NOTHING])
        return logprobs_GR.sum()

    def losses(self, scored: Sequence[ScoredGroup]) -> "list[_PassLoss]":
        """Return the batch's loss, the groups of one pass at a time, the same in every process.

        The normaliser counts every group. Dead groups have no advantage; whether their KL term is
        kept is the setting ``dead_groups``, and without a KL term there is nothing to keep.
        """
        normaliser = self.loss.normaliser([each.spans for each in scored])
        self.optimizer.policy.train()  # as they will be scored
        parts = [
            spans[part]
            for each in scored
            if each.teaches or self.keep_dead
            for spans in by_prompt(each.spans)
            for part in self._parts(spans)
        ]
        for part in parts:
            self._choose_paths(_prompt_group(part))
        if self._sharded:
            self._choose_paths(_NOTHING)
            parts = [part for part in parts if any(span.token_ids for span in part)]
        return [_PassLoss(self, parts[each], normaliser) for each in self._passes(parts)]

    def _choose_paths(self, group: PromptGroup) -> set[Path]:
        """Return the paths that a group takes; check those that it is the first to take.

        Every process does so with all groups of a step, so that they decide alike.

        Raises:
            MulliganError: the model is sharded, and only its own forward can score the group.
        """
        paths = {self.scorer.path(group.prompt_ids, group.completions)}
        if self.reference is not None:
            with self.as_reference():
                paths.add(self.reference.path(group.prompt_ids, group.completions))
        if "model" in paths and self._sharded:
            raise MulliganError(
                "This model's log-probs have to be computed one completion at a time (the log says "
                "why), which is not done with shards. Leave out train.shard."
            )
        return paths

    def _parts(self, spans: Sequence[Span]) -> list[slice]:
        if self.loss.whole_groups:
            return [slice(None)]
        return self.scorer.parts(spans[0].prompt_ids, [span.token_ids for span in spans])

    def _passes(self, parts: Sequence[Sequence[Span]]) -> list[slice]:
        groups = [_prompt_group(spans) for spans in parts]
        # On other paths each group is a forward of its own, and through shards passes are counted.
        stream = not self._sharded or all(self._choose_paths(g) == {"shared"} for g in groups)
        if self.pack and stream:
            return self.scorer.streams(groups, shares=self.processes.count)
        return [slice(each, each + 1) for each in range(len(parts))]


_NOTHING = PromptGroup((0,), [(0,)], [(False,)])
"""A group of which nothing is scored."""


def _prompt_group(spans: Sequence[Span]) -> PromptGroup:
    """Return spans of one prompt as the scorer takes them."""
    return PromptGroup(
        spans[0].prompt_ids, [each.token_ids for each in spans], [each.learns for each in spans]
    )


@dataclass
class _PassLoss:
    """The share of a batch's loss that some groups have, whose tokens are scored in one pass.

    On a second call it knows the log-probs of the first: those of the policy that sampled.
    """

    updater: Updater
    parts: Sequence[Sequence[Span]]
    """The spans of each group; they share a prompt."""
    normaliser: float
    old: list[Tensor] | None = None
    """``logprobs_GR`` of each group under the policy that sampled."""

    def __call__(self, sums: TokenSums) -> Tensor:
        """Return the loss, and add up what it was made of."""
        updater = self.updater
        groups = [_prompt_group(spans) for spans in self.parts]
        scored = updater.scorer.score(groups, updater.temperature)
        references: Sequence[Tensor | None] = [None] * len(groups)
        if updater.reference is not None:
            with torch.no_grad(), updater.as_reference():
                references = [
                    logprobs_GR
                    for logprobs_GR, _ in updater.reference.score(groups, updater.temperature)
                ]
        old: Sequence[Tensor | None] = self.old or [None] * len(groups)
        rows = zip(self.parts, scored, old, references, strict=True)
        losses = [self._loss(sums, *row) for row in rows]
        if updater.epochs > 1 and self.old is None:
            self.old = [logprobs_GR.detach() for logprobs_GR, _ in scored]
        return losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def _loss(
        self,
        sums: TokenSums,
        spans: Sequence[Span],
        scored: tuple[Tensor, Tensor],
        old_GR: Tensor | None,
        reference_GR: Tensor | None,
    ) -> Tensor:
        """Return a group's loss."""
        logprobs_GR, mask_GR = scored
        scores = Scores(
            logprobs_GR,
            mask_GR,
            [span.advantage for span in spans],
            old_logprobs_GR=old_GR,
            engine_logprobs_GR=_engine_logprobs(spans, mask_GR) if self.updater.weigh else None,
            reference_logprobs_GR=reference_GR,
        )
        loss, made_of = self.updater.loss(scores, self.normaliser)
        if old_GR is None:
            _compare(sums, spans, logprobs_GR.detach(), mask_GR)
        sums.tokens += int(made_of.tokens)
        sums.kl += float(made_of.kl)
        sums.clipped += int(made_of.clipped)
        sums.capped += int(made_of.capped)
        return loss


def _compare(sums: TokenSums, spans: Sequence[Span], logprobs_GR: Tensor, mask_GR: Tensor) -> None:
    """Add up how far the engine's log-probs are from the trainer's."""
    for row, span in enumerate(spans):
        if span.logprobs is not None:
            sampled_R = logprobs_GR.new_tensor(span.logprobs)
            mask_R = mask_GR[row, : len(sampled_R)]
            scored_R = logprobs_GR[row, : len(sampled_R)]
            sums.mismatch += float((scored_R - sampled_R)[mask_R].abs().sum())
            sums.compared += int(mask_R.sum())


def _engine_logprobs(spans: Sequence[Span], mask_GR: Tensor) -> Tensor:
    """Return the engine's log-probs of some spans."""
    logprobs_GR = torch.zeros(mask_GR.shape, device=mask_GR.device)
    for row, span in enumerate(spans):
        if span.logprobs is None:
            raise MulliganError(
                "The engine gave no log-probs, so tokens cannot be weighed by importance. "
                "Use train.importance_weights=false, or an engine that gives them."
            )
        logprobs_GR[row, : len(span.logprobs)] = logprobs_GR.new_tensor(span.logprobs)
    return logprobs_GR


def _together(updates: Sequence[Update]) -> Update:
    """Sum up the optimiser steps on one rollout: mean loss, largest norm, first learning rate."""
    return Update(
        loss=sum(each.loss for each in updates) / len(updates),
        gradient_norm=max(each.gradient_norm for each in updates),
        learning_rate=updates[0].learning_rate,
        applied=all(each.applied for each in updates),
    )


def make_updater(
    policy: Policy,
    loss: Loss,
    recipe: Recipe,
    *,
    exact: bool = True,
    processes: Processes = ALONE,
) -> Updater:
    """Return what updates a policy as a recipe says; the policy as it is now is the reference.

    Args:
        policy: trained in place.
        loss: of spans.
        recipe: the run's.
        exact: whether the engine's log-probs are the trainer's but for rounding.
        processes: share the losses of a step.
    """
    settings, asked = recipe.train, recipe.train.importance_weights
    if settings.gradient_checkpointing:
        compute_activations_twice(policy.model)
    scored_by = partial(GroupScorer, max_tokens=settings.tokens_at_once, agree=processes.agree)
    scorer = scored_by(policy.model)
    reference = None
    if loss.needs_reference:
        reference = scored_by(policy.reference(getattr(torch, settings.reference_dtype)))
        if reference.model is policy.model:
            reference = scorer  # shards have one root
    if settings.shard:
        for each in [scorer] if reference in (None, scorer) else [scorer, reference]:
            processes.shard(each, torch.device(pick_device(recipe.device)).type)
    optimizer = PolicyOptimizer(
        policy.model,
        learning_rate=settings.learning_rate,
        steps=settings.steps * settings.rollout_epochs,
        schedule=settings.schedule,
        warmup_ratio=settings.warmup_ratio,
        first_step_learns=recipe.first_step_learns,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        average_from=settings.average_from,
        dtype=recipe.dtype,
        kind=settings.optimizer,
        processes=processes,
    )
    return Updater(
        loss=loss,
        optimizer=optimizer,
        scorer=scorer,
        reference=reference,
        as_reference=policy.as_reference,
        temperature=recipe.generate.temperature,
        keep_dead=settings.dead_groups == "keep" and settings.kl_beta > 0,
        epochs=settings.rollout_epochs,
        weigh=loss.policy_gradient and (not exact if asked is None else asked),
        processes=processes,
        pack=recipe.groups_share_a_pass,
    )


def compute_activations_twice(model: PreTrainedModel) -> None:
    """Have a model compute activations again in the backward pass, instead of keeping them."""
    newer = getattr(model, "activation_checkpointing_enable", None)
    enable: Callable[..., None] = newer or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    if model.device.type == "cpu":
        map_large_blocks()
