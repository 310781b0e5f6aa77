"""The method: reflect, retry, reward.

The loop reads top to bottom and calls what it needs: stored failures, G reflections and retries
each, verdicts, advantages, one optimiser step on the tokens of the reflections. A step depends on
the weights, the failure store and the step's number only, so a resumed run repeats exactly what an
uninterrupted one would have done.
"""

import logging
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mulligan.config import Recipe
from mulligan.engines.base import Engine, require_version
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.failures import FailureStore
from mulligan.episodes.rollout import Verify, reflect_and_retry
from mulligan.errors import MulliganError
from mulligan.interrupt import StoppedEarly, StopRequest
from mulligan.logprobs.shared_prompt import GroupScorer
from mulligan.objectives.advantages import is_dead
from mulligan.objectives.loss import grpo_loss, loss_normaliser
from mulligan.randomness import derive_seed
from mulligan.storage.checkpoint import Checkpoints, load_training_state, save_training_state
from mulligan.storage.episode_log import open_episodes
from mulligan.storage.records import RecordLog
from mulligan.storage.run_folder import RunFolder
from mulligan.trainer.optimizer import Learner, Update, seed_generators
from mulligan.types import Group, Sampling, TrainedEpisode

log = logging.getLogger("mulligan")

_SKIPPED = "Step %d is skipped, the weights stay: its loss is %s, the norm of its gradient %s."


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """A line of ``metrics.jsonl``; nothing in it depends on the clock."""

    step: int
    reward: float
    """Share of the step's retries that passed."""
    reflection_tokens: float
    """Mean length of a reflection."""
    truncated: float
    """Share of reflections that the token limit cut off."""
    live_groups: int
    """Groups with both passing and failing retries: the ones that teach."""
    dead_groups: int
    unjudged: int
    """Episodes left out because the verifier broke."""
    loss: float | None
    """None where it was not finite."""
    kl: float
    """Mean KL estimate from the reference a token, in nats; 0 without a reference."""
    gradient_norm: float | None
    """Before clipping."""
    learning_rate: float
    logprob_mismatch: float
    """Mean absolute difference between the engine's and the trainer's log-probs of a token."""
    skipped: bool
    """Whether the update was left out because loss or gradient was not finite."""


@dataclass(frozen=True, slots=True)
class StepTiming:
    """A line of ``timings.jsonl``, in seconds."""

    step: int
    rollout: float
    update: float


@dataclass
class Sums:
    """What the losses of a step add up on the way."""

    tokens: int = 0
    kl: float = 0.0
    mismatch: float = 0.0


@dataclass(frozen=True)
class Trainer:
    """Everything that a training step needs."""

    policy: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    engine: Engine
    store: FailureStore
    conversations: Conversations
    verify: Verify
    recipe: Recipe
    run: RunFolder
    stop: StopRequest
    progress: Callable[[StepMetrics], None] = field(default=lambda metrics: None)

    def train(self) -> None:
        """Train from the newest checkpoint to the last step.

        Raises:
            MulliganError: too few failures, no group to learn from, or too many steps whose loss
                was not finite.
            StoppedEarly: asked to stop, or ``stop_after`` was reached; everything is saved.
        """
        settings = self.recipe.train
        self.store.require(settings.failures_per_step)
        seed_generators(derive_seed(self.recipe.seed_of("train"), "train"))
        scorer = GroupScorer(self.policy, max_tokens=settings.tokens_at_once)
        reference = GroupScorer(_frozen_copy(self.policy)) if settings.kl_beta > 0 else None
        learner = self.learner()
        checkpoints = Checkpoints(self.run.checkpoints, settings.keep_checkpoints)
        done, skipped = self._restore(checkpoints, learner)
        last = min(settings.stop_after or settings.steps, settings.steps)

        with (
            RecordLog(self.run.metrics, StepMetrics, _step_key) as metrics_log,
            RecordLog(self.run.timings, StepTiming, _step_key) as timings_log,
            open_episodes(self.run.episodes) as episodes_log,
        ):
            for step in range(done + 1, last + 1):
                self.engine.update_weights(self.policy, version=step)
                started = time.perf_counter()
                groups = self.rollout(step)
                require_version(self.engine, step)
                rolled_out = time.perf_counter()
                sums = Sums()
                update = learner.update(self.losses(groups, scorer, reference, sums))
                updated = time.perf_counter()

                for record in trained_episodes(step, groups):
                    episodes_log.append(record)
                metrics = step_metrics(step, groups, update, sums, self._episodes_a_step)
                metrics_log.append(metrics)
                timings_log.append(StepTiming(step, rolled_out - started, updated - rolled_out))
                self.progress(metrics)
                if metrics.skipped:
                    skipped += 1
                    log.warning(_SKIPPED, step, update.loss, update.gradient_norm)
                stopping = self.stop() or step == last
                if stopping or step % settings.checkpoint_every == 0:
                    for records in (metrics_log, timings_log, episodes_log):
                        records.sync()
                    checkpoints.save(step, partial(self._write, learner, step, skipped))
                self._refuse_too_many_skips(skipped)
                if stopping and step < settings.steps:
                    raise StoppedEarly(f"step {step} of {settings.steps}")
        if (reached := max(done, last)) < settings.steps:
            raise StoppedEarly(f"step {reached} of {settings.steps}")
        self._refuse_if_nothing_was_learned()

    @property
    def _episodes_a_step(self) -> int:
        return self.recipe.train.failures_per_step * self.recipe.train.group_size

    def rollout(self, step: int) -> list[Group]:
        """Reflect and retry on the step's failures."""
        recipe, settings = self.recipe, self.recipe.train
        temperature = recipe.generate.temperature
        groups = reflect_and_retry(
            self.engine,
            self.conversations,
            self.verify,
            self.store.batch(recipe.seed_of("train"), step - 1, settings.failures_per_step),
            settings.group_size,
            Sampling(
                temperature,
                recipe.generate.reflection_tokens,
                derive_seed(recipe.seed_of("train"), "reflect", step),
            ),
            Sampling(
                temperature,
                recipe.generate.answer_tokens,
                derive_seed(recipe.seed_of("train"), "retry", step),
            ),
            scale_advantages=settings.scale_advantages,
        )
        return [group for group in groups if group.episodes]

    def losses(
        self,
        groups: Sequence[Group],
        scorer: GroupScorer,
        reference: GroupScorer | None,
        sums: Sums,
    ) -> list[Callable[[], Tensor]]:
        """Return the batch's loss, a group or a part of one at a time.

        The normaliser counts every group. Dead groups have no advantage; whether their KL term is
        kept is the setting ``dead_groups``, and without a KL term there is nothing to keep.
        """
        settings = self.recipe.train
        keep_dead = settings.dead_groups == "keep" and settings.kl_beta > 0
        lengths = [len(e.reflection.token_ids) for group in groups for e in group.episodes]
        normaliser = loss_normaliser(settings.loss, lengths, self.recipe.generate.reflection_tokens)
        losses: list[Callable[[], Tensor]] = []
        for group in groups:
            if is_dead(group.rewards_G) and not keep_dead:
                continue
            completions = [episode.reflection.token_ids for episode in group.episodes]
            losses.extend(
                partial(self._loss, group, part, normaliser, scorer, reference, sums)
                for part in scorer.parts(group.prompt_ids, completions)
            )
        return losses

    def _loss(
        self,
        group: Group,
        part: slice,
        normaliser: float,
        scorer: GroupScorer,
        reference: GroupScorer | None,
        sums: Sums,
    ) -> Tensor:
        """Return the loss of some episodes of a group, on the tokens of their reflections."""
        settings, temperature = self.recipe.train, self.recipe.generate.temperature
        reflections = [episode.reflection for episode in group.episodes[part]]
        completions = [reflection.token_ids for reflection in reflections]
        logprobs_GR, mask_GR = scorer(group.prompt_ids, completions, temperature)
        reference_GR = None
        if reference is not None:
            with torch.no_grad():
                reference_GR, _ = reference(group.prompt_ids, completions, temperature)
        loss, made_of = grpo_loss(
            logprobs_GR,
            mask_GR,
            group.advantages_G[part],
            normaliser,
            kind=settings.loss,
            ref_logprobs_GR=reference_GR,
            beta=settings.kl_beta,
        )
        sums.tokens += int(made_of.tokens)
        sums.kl += float(made_of.kl)
        for row, reflection in enumerate(reflections):
            if reflection.logprobs is not None:
                sampled_R = logprobs_GR.new_tensor(reflection.logprobs)
                scored_R = logprobs_GR.detach()[row, : len(sampled_R)]
                sums.mismatch += float((scored_R - sampled_R).abs().sum())
        return loss

    def learner(self) -> Learner:
        """Return what updates the policy, as the recipe says."""
        settings = self.recipe.train
        return Learner(
            self.policy,
            learning_rate=settings.learning_rate,
            steps=settings.steps,
            schedule=settings.schedule,
            warmup_ratio=settings.warmup_ratio,
            weight_decay=settings.weight_decay,
            first_step_learns=self.recipe.first_step_learns,
            max_grad_norm=settings.max_grad_norm,
            dtype=self.recipe.dtype,
        )

    def _restore(self, checkpoints: Checkpoints, learner: Learner) -> tuple[int, int]:
        """Go back to the newest checkpoint; return the steps done and the updates skipped."""
        newest = checkpoints.newest()
        if newest is None:
            return 0, 0
        state = load_training_state(
            checkpoints.path(newest),
            model=self.policy,
            optimizer=learner.optimizer,
            scheduler=learner.scheduler,
        )
        return state.step, int(state.extra["skipped"])

    def _write(self, learner: Learner, step: int, skipped: int, folder: Path) -> None:
        save_training_state(
            folder,
            model=self.policy,
            tokenizer=self.tokenizer,
            optimizer=learner.optimizer,
            scheduler=learner.scheduler,
            step=step,
            extra={"skipped": skipped},
        )

    def _refuse_too_many_skips(self, skipped: int) -> None:
        limit = self.recipe.train.max_skipped_steps
        if skipped > limit:
            raise MulliganError(
                f"{skipped} steps had a loss or gradient that is not finite, more than "
                f"train.max_skipped_steps={limit}. Lower train.learning_rate or use dtype=float32."
            )

    def _refuse_if_nothing_was_learned(self) -> None:
        with RecordLog(self.run.metrics, StepMetrics, _step_key) as metrics:
            if not any(line.live_groups for line in metrics):
                raise MulliganError(
                    "No group had both a passing and a failing retry, so nothing was learned. "
                    "If no retry passes, the task is out of the model's reach: warm it up first, "
                    "or give it easier problems; if all pass, give it harder ones."
                )


def trained_episodes(step: int, groups: Sequence[Group]) -> list[TrainedEpisode]:
    """Return the records of a step's episodes."""
    return [
        TrainedEpisode.of(step, episode, reward, advantage)
        for group in groups
        for episode, reward, advantage in zip(
            group.episodes, group.rewards_G, group.advantages_G, strict=True
        )
    ]


def step_metrics(
    step: int, groups: Sequence[Group], update: Update, sums: Sums, generated: int
) -> StepMetrics:
    """Sum a step up; ``generated`` counts its episodes, those without a verdict included."""
    episodes = [episode for group in groups for episode in group.episodes]
    rewards = [reward for group in groups for reward in group.rewards_G]
    dead = sum(is_dead(group.rewards_G) for group in groups)
    reflections = [episode.reflection for episode in episodes]
    return StepMetrics(
        step=step,
        reward=_mean(rewards),
        reflection_tokens=_mean([len(each.token_ids) for each in reflections]),
        truncated=_mean([float(each.finish_reason == "length") for each in reflections]),
        live_groups=len(groups) - dead,
        dead_groups=dead,
        unjudged=generated - len(episodes),
        loss=update.loss if update.applied else None,
        kl=sums.kl / max(sums.tokens, 1),
        gradient_norm=update.gradient_norm if update.applied else None,
        learning_rate=update.learning_rate,
        logprob_mismatch=sums.mismatch / max(sums.tokens, 1),
        skipped=not update.applied,
    )


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else 0.0


def _step_key(record: StepMetrics | StepTiming) -> str:
    return str(record.step)


def _frozen_copy(policy: PreTrainedModel) -> PreTrainedModel:
    """Return the reference policy: a copy of the weights, never trained."""
    copy = deepcopy(policy)
    copy.train(False)
    copy.requires_grad_(False)
    return copy
