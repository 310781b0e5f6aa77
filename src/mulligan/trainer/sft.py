"""Supervised fine-tuning, as a warm-up for models below the method's reach.

A model that never answers in a readable form has nothing to learn from: no retry passes. The
warm-up shows it conversations of the training split: answers, and failures put right after a
reflection. The loss falls on the model's own turns only.

Conversations begin alike (system prompt, role marks), so a batch is one group in the sense of
`mulligan.logprobs`: the common beginning is computed once, and nothing is padded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile

import torch
from torch import Tensor
from transformers import PreTrainedModel

from mulligan.config import Dtype, Sft
from mulligan.episodes.conversation import Conversations
from mulligan.errors import MulliganError
from mulligan.logprobs.packing import PromptGroup
from mulligan.logprobs.shared_prompt import GroupScorer
from mulligan.randomness import derive_seed
from mulligan.trainer.optimizer import PolicyOptimizer, seed_generators
from mulligan.types import Demonstration, SftStep, TokenIds


@dataclass(frozen=True, slots=True)
class Lesson:
    """A demonstration as tokens."""

    token_ids: TokenIds
    trained: tuple[bool, ...]
    """Which tokens the loss falls on."""
    weight: float = 1.0
    """How much each of them counts."""


def fine_tune(
    policy: PreTrainedModel,
    conversations: Conversations,
    demonstrations: Sequence[Demonstration],
    settings: Sft,
    *,
    seed: int,
    dtype: Dtype,
    first_step_learns: bool,
    tokens_at_once: int,
    report: Callable[[SftStep], None],
    pack: bool = True,
) -> None:
    """Train the policy in place, once over the demonstrations.

    With ``pack``, groups of conversations that fit go through the policy in one pass.

    Raises:
        MulliganError: there are no demonstrations, or a loss was not finite.
    """
    if not demonstrations:
        raise MulliganError(
            "This task offers no demonstrations, so there is nothing to warm up on. "
            "Leave `sft` out of the recipe, or give the task a `demonstrations` method."
        )
    seed_generators(derive_seed(seed, "warmup", "generators"))
    order = torch.Generator().manual_seed(derive_seed(seed, "warmup"))
    lessons = [one for each in demonstrations for one in lessons_of(conversations, each, settings)]
    shuffled = [lessons[i] for i in torch.randperm(len(lessons), generator=order).tolist()]
    batches = [shuffled[i : i + settings.batch] for i in range(0, len(shuffled), settings.batch)]
    scorer = GroupScorer(policy, max_tokens=tokens_at_once)
    optimizer = PolicyOptimizer(
        policy,
        learning_rate=settings.learning_rate,
        steps=len(batches),
        schedule="cosine",
        warmup_ratio=settings.warmup_ratio,
        first_step_learns=first_step_learns,
        average_from=settings.average_from,
        dtype=dtype,
    )
    for step, batch in enumerate(batches, start=1):
        update = optimizer.step(batch_losses(scorer, batch, pack))
        if not update.applied:
            raise MulliganError(
                f"Step {step} gave a loss of {update.loss} and a gradient norm of "
                f"{update.gradient_norm}. Lower sft.learning_rate, or use dtype=float32."
            )
        tokens = sum(len(each.token_ids) for each in batch)
        report(SftStep(step, update.loss, update.gradient_norm, tokens))


def lessons_of(conversations: Conversations, demo: Demonstration, settings: Sft) -> list[Lesson]:
    """Lay a demonstration out and mark the tokens that are trained on.

    It is one sequence where each prompt continues the turn before it. Where the template rewrites
    earlier turns, every trained turn is a sequence of its own.
    """
    turns = conversations.demonstration(demo)
    lessons: list[Lesson] = []
    for number, (prompt, completion) in enumerate(turns):
        failed_attempt = number == 0 and len(turns) > 1
        learn = settings.train_on_failed_attempt or not failed_attempt
        before = lessons[-1] if lessons else Lesson((), ())
        if before.token_ids == prompt[: len(before.token_ids)]:
            lessons, trained = lessons[:-1], list(before.trained)
        else:
            trained = []
        trained += [False] * (len(prompt) - len(trained)) + [learn] * len(completion)
        lessons.append(Lesson((*prompt, *completion), tuple(trained)))
    return [each for each in lessons if any(each.trained)]


def batch_losses(
    scorer: GroupScorer, batch: Sequence[Lesson], pack: bool = True
) -> list[Callable[[], Tensor]]:
    """Return the batch's loss in parts that fit: weighted mean over the batch's trained tokens.

    With ``pack``, groups that fit go through the policy in one pass.
    """
    tokens = sum(each.weight * sum(each.trained) for each in batch)
    together: dict[int, list[Lesson]] = {}  # by first token: a group needs a beginning to share
    for each in batch:
        together.setdefault(each.token_ids[0], []).append(each)
    weighed = [part for lessons in together.values() for part in _groups(scorer, lessons)]
    groups, weights = [group for group, _ in weighed], [each for _, each in weighed]
    passes = scorer.streams(groups) if pack else [slice(i, i + 1) for i in range(len(groups))]
    return [partial(_loss, scorer, groups[each], weights[each], tokens) for each in passes]


def _groups(
    scorer: GroupScorer, lessons: Sequence[Lesson]
) -> list[tuple[PromptGroup, list[float]]]:
    """Return the groups of some lessons, each with the weights of its lessons."""
    shared = common_prefix(lessons)
    prompt = lessons[0].token_ids[:shared]
    rests = [each.token_ids[shared:] for each in lessons]
    masks = [each.trained[shared:] for each in lessons]
    weights = [each.weight for each in lessons]
    return [
        (PromptGroup(prompt, rests[part], masks[part]), weights[part])
        for part in scorer.parts(prompt, rests)
    ]


def _loss(
    scorer: GroupScorer,
    groups: Sequence[PromptGroup],
    weights: Sequence[Sequence[float]],
    tokens: float,
) -> Tensor:
    sums = [
        (logprobs_GR * logprobs_GR.new_tensor(weights_G)[:, None]).sum()
        for (logprobs_GR, _), weights_G in zip(scorer.score(groups), weights, strict=True)
    ]
    total = sums[0] if len(sums) == 1 else torch.stack(sums).sum()
    loss: Tensor = -total / tokens
    return loss


def common_prefix(lessons: Sequence[Lesson]) -> int:
    """Return how many leading tokens all lessons share that none of them trains on."""
    columns = zip(*(each.token_ids for each in lessons), strict=False)
    shared = sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
    return min(shared, *(each.trained.index(True) for each in lessons))
