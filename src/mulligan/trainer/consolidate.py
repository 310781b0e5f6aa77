"""Consolidation: what a reflection found moves into the first try.

The policy is trained on the bare question, with the answers that it found itself and that passed:
on their tokens (``sft``), or towards the distribution that it has itself after the reflection
(``distill``, context distillation on its own samples). Reflections are never trained on. Problems
that it solves at the first try take part, so that they stay solved. docs/rounds.md has the formulas
with their sources.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mulligan.config import Consolidate, Recipe
from mulligan.engines.base import Engine, require_version
from mulligan.episodes.conversation import Conversations
from mulligan.episodes.epochs import shuffled
from mulligan.episodes.found import Found
from mulligan.episodes.rollout import generate
from mulligan.errors import MulliganError
from mulligan.logprobs.divergence import next_logits, reverse_kl
from mulligan.logprobs.shared_prompt import GroupScorer
from mulligan.models.policies import Policy
from mulligan.randomness import derive_seed
from mulligan.trainer.optimizer import PolicyOptimizer, seed_generators
from mulligan.trainer.sft import Lesson, batch_losses
from mulligan.types import ConsolidationStep, Sampling, TokenIds

Losses = list[Callable[[], Tensor]]
LossesOf = Callable[[Sequence["Example"], int], tuple[Losses, int, int]]
"""A batch and a step to its losses, the tokens they train, and the tokens sampled for them."""


@dataclass(frozen=True, slots=True)
class Example:
    """An answer that passed, as it is trained on."""

    prompt_ids: TokenIds
    """The bare question."""
    context_ids: TokenIds
    """What the answer followed; the bare question where it was a first try."""
    answer_ids: TokenIds
    weight: float
    """Weights of a problem's answers sum to 1."""


def examples_of(found: Iterable[Found], solved_share: float, seed: int) -> list[Example]:
    """Return what is trained on: each different answer of a problem once, and solved problems.

    The answers that second tries found for a problem share a weight of 1, however many passed and
    however often the same was found. Of the problems solved at the first try so many are drawn
    that they make up ``solved_share`` of all problems, or all where there are fewer.
    """
    answers: dict[str, dict[TokenIds, Found]] = {}
    solved: list[Found] = []
    for each in found:
        if each.at == "retry":
            answers.setdefault(each.problem_id, {}).setdefault(each.answer_ids, each)
        else:
            solved.append(each)
    wanted = round(len(answers) * solved_share / (1 - solved_share))
    drawn = shuffled(len(solved), derive_seed(seed, "solved"))[:wanted]
    kept = [(solved[int(place)], 1.0) for place in sorted(drawn)]
    kept += [(each, 1 / len(own)) for own in answers.values() for each in own.values()]
    return [Example(e.prompt_ids, e.context_ids, e.answer_ids, weight) for e, weight in kept]


def consolidate(
    policy: Policy,
    engine: Engine,
    conversations: Conversations,
    examples: Sequence[Example],
    recipe: Recipe,
    settings: Consolidate,
    *,
    report: Callable[[ConsolidationStep], None],
) -> None:
    """Train a policy in place on the bare questions.

    Raises:
        MulliganError: a loss was not finite.
    """
    seed = derive_seed(recipe.seed_of("train"), "consolidate")
    seed_generators(derive_seed(seed, "generators"))
    batches = list(_batches(examples, settings, seed))
    optimizer = PolicyOptimizer(
        policy.model,
        learning_rate=settings.learning_rate,
        steps=len(batches),
        schedule="cosine",
        warmup_ratio=settings.warmup_ratio,
        first_step_learns=recipe.first_step_learns,
        average_from=settings.average_from,
        dtype=recipe.dtype,
    )
    losses_of: LossesOf = (
        _Supervised(GroupScorer(policy.model, max_tokens=recipe.train.tokens_at_once))
        if settings.method == "sft"
        else _Distilled(policy, engine, conversations, recipe, seed)
    )
    for step, batch in enumerate(batches, start=1):
        losses, trained, sampled = losses_of(batch, step)
        update = optimizer.step(losses)
        if not update.applied:
            raise MulliganError(
                f"Step {step} of the consolidation gave a loss of {update.loss} and a gradient "
                f"norm of {update.gradient_norm}. Lower consolidate.learning_rate, or use "
                "dtype=float32."
            )
        report(ConsolidationStep(step, update.loss, update.gradient_norm, trained, sampled))


def _batches(
    examples: Sequence[Example], settings: Consolidate, seed: int
) -> Iterator[list[Example]]:
    """Yield the batches of all epochs, each epoch in an order of its own."""
    for epoch in range(settings.epochs):
        order = shuffled(len(examples), derive_seed(seed, "epoch", epoch))
        for start in range(0, len(examples), settings.batch):
            yield [examples[int(place)] for place in order[start : start + settings.batch]]


@dataclass(frozen=True)
class _Supervised:
    """The weighted negative log-likelihood of the answers, over their weighted tokens."""

    scorer: GroupScorer

    def __call__(self, batch: Sequence[Example], step: int) -> tuple[Losses, int, int]:
        """Return a batch's losses, how many tokens they train, and how many were sampled."""
        del step
        lessons = [
            Lesson(
                (*each.prompt_ids, *each.answer_ids),
                (*[False] * len(each.prompt_ids), *[True] * len(each.answer_ids)),
                each.weight,
            )
            for each in batch
        ]
        return batch_losses(self.scorer, lessons), sum(len(each.answer_ids) for each in batch), 0


class _Distilled:
    """The divergence, on the policy's own answers, from what it was after its reflection."""

    def __init__(
        self,
        policy: Policy,
        engine: Engine,
        conversations: Conversations,
        recipe: Recipe,
        seed: int,
    ) -> None:
        self.policy = policy
        self.teacher = policy.reference(getattr(torch, recipe.train.reference_dtype))
        self.engine = engine
        self.conversations = conversations
        self.generate = recipe.generate
        self.seed = seed

    def __call__(self, batch: Sequence[Example], step: int) -> tuple[Losses, int, int]:
        """Return a batch's losses, how many tokens they train, and how many were sampled."""
        sampled = self._answers([each.prompt_ids for each in batch], step)
        pairs = [(e, ids) for e, ids in zip(batch, sampled, strict=True) if ids]
        normaliser = sum(each.weight * len(ids) for each, ids in pairs)
        tokens = sum(len(ids) for _, ids in pairs)
        losses: Losses = [
            partial(self._loss, each, ids, each.weight / normaliser) for each, ids in pairs
        ]
        return losses, tokens, tokens

    def _answers(self, prompts: Sequence[TokenIds], step: int) -> list[TokenIds]:
        """Let the policy answer the bare questions as it is now."""
        self.engine.update_weights(self.policy.model, version=step)
        drawn = Sampling(
            self.generate.temperature,
            self.generate.answer_tokens,
            derive_seed(self.seed, "answers", step),
        )
        rows = generate(self.engine, self.conversations, prompts, 1, drawn)
        require_version(self.engine, step)
        self.engine.reset_cache()
        return [row[0].token_ids for row in rows]

    def _loss(self, example: Example, answer_ids: TokenIds, weight: float) -> Tensor:
        return weight * distillation_loss(
            self.policy.model,
            partial(self._teacher_logits, example.context_ids, answer_ids),
            example.prompt_ids,
            answer_ids,
            self.generate.temperature or 1.0,
        )

    def _teacher_logits(self, context: TokenIds, answer_ids: TokenIds) -> Tensor:
        with self.policy.as_reference():
            return next_logits(self.teacher, context, answer_ids)


def distillation_loss(
    student: PreTrainedModel,
    teacher_logits: Callable[[], Tensor],
    prompt_ids: TokenIds,
    answer_ids: TokenIds,
    temperature: float,
) -> Tensor:
    """Return the sum over an answer's tokens of KL(student || teacher), in nats.

    The student sees the bare question, the teacher its own context; both the same answer, which the
    student wrote. Only the student's next-token distributions get a gradient.

    Args:
        student: the policy.
        teacher_logits: computes the teacher's logits, shape (tokens, vocabulary).
        prompt_ids: the bare question.
        answer_ids: the student's answer.
        temperature: of both distributions: at which the answer was sampled.
    """
    with torch.no_grad():
        teacher_RV = teacher_logits()
    student_RV = next_logits(student, prompt_ids, answer_ids)
    return reverse_kl(student_RV / temperature, teacher_RV / temperature)
