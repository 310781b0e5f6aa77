"""Other tasks as multiple choice: the answer that a model finds most likely is its choice.

A small model writes next to nothing that passes on tasks it was not made for, so generated answers
would say nothing; its preference among given answers does. As in lm-eval's ``acc_norm``, an
answer's log-likelihood is divided by its length in bytes.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from mulligan.episodes.conversation import Conversations
from mulligan.episodes.rollout import Verify
from mulligan.errors import MulliganError
from mulligan.evaluation.forgetting.records import Checkpoint, Outcome
from mulligan.randomness import derive_seed
from mulligan.tasks.base import Task
from mulligan.types import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OPTIONS = 4
"""Answers to choose from, where a task has no wrong answers of its own."""

DATA_SETS = (
    "gsm_symbolic",
    "chain_sum",
    "gcd",
    "spell_backward",
    "letter_counting",
    "number_sequence",
    "syllogism",
)
"""What ``elsewhere`` asks of reasoning-gym: arithmetic, words, letters and logic."""


@dataclass(frozen=True, slots=True)
class Item:
    """A problem and the answers to choose from; the first one is right."""

    problem: Problem
    options: tuple[str, ...]


def elsewhere(own_task: str) -> list[str]:
    """Return the tasks that stand for what a run's model could do elsewhere.

    A run of Countdown is asked about function calling, any other run about Countdown.
    """
    other = "bfcl" if own_task == "countdown" else "countdown"
    return [*(f"reasoning_gym:{name}" for name in DATA_SETS), other]


def items_of(task: Task, verify: Verify, count: int, seed: int) -> list[Item]:
    """Make items of a task: from its demonstrations of a mistake, else from its references.

    A demonstration sets a right answer against a wrong one to the same problem. Without such, the
    wrong answers are other problems' references that the verifier refuses.

    Raises:
        MulliganError: the task has neither.
    """
    items = list(islice(_mistakes(task, verify, count, seed), count))
    items = items or list(islice(_references(task, verify, count, seed), count))
    if not items:
        raise MulliganError(
            f"Task {task.name!r} has no references and no demonstrations, so there are no answers "
            "to choose from. Name another task."
        )
    return items


def _mistakes(task: Task, verify: Verify, count: int, seed: int) -> Iterator[Item]:
    """Yield one item for each problem with a reference that a demonstration first gets wrong."""
    found: dict[str, Item] = {}
    for demonstration in task.demonstrations(4 * count, seed):
        problem = demonstration.problem
        if problem.reference is not None and problem.id not in found:
            item = Item(problem, (problem.reference, demonstration.attempt))
            right, wrong = verify([(problem, option) for option in item.options])
            if right.passed and wrong.status == "failed":
                found[problem.id] = item
    yield from found.values()


def _references(task: Task, verify: Verify, count: int, seed: int) -> Iterator[Item]:
    problems = [each for each in islice(task.problems("test"), count) if each.reference is not None]
    answers = sorted({str(each.reference) for each in problems})
    for problem in problems:
        draw = random.Random(derive_seed(seed, "options", problem.id))
        others = draw.sample(answers, min(len(answers), 3 * OPTIONS))
        verdicts = verify([(problem, other) for other in others])
        wrong = [o for o, v in zip(others, verdicts, strict=True) if v.status == "failed"]
        if wrong:
            yield Item(problem, (str(problem.reference), *wrong[: OPTIONS - 1]))


def fitting(items: Sequence[Item], conversations: Conversations) -> list[Item]:
    """Return the items of which every answer fits the model's context after the question."""
    return [
        item
        for item in items
        if conversations.fits(
            conversations.attempt(item.problem),
            max(len(conversations.written(option).token_ids) for option in item.options),
        )
    ]


def choose(
    models: Mapping[Checkpoint, "PreTrainedModel"],
    conversations: Conversations,
    name: str,
    items: Sequence[Item],
    done: int = 0,
) -> Iterator[Outcome]:
    """Yield which models prefer the right answer of each item; a tie is not a preference.

    The first ``done`` items are passed over.
    """
    from mulligan.logprobs.likelihood import likelihood_of

    likelihoods = {checkpoint: likelihood_of(model) for checkpoint, model in models.items()}
    for number, item in islice(enumerate(items), done, None):
        prompt = conversations.attempt(item.problem)
        written = [conversations.written(option).token_ids for option in item.options]
        sizes = [len(option.encode()) for option in item.options]
        passed = {}
        for checkpoint, likelihood in likelihoods.items():
            totals = likelihood(prompt, written)
            likely = [total / size for total, size in zip(totals, sizes, strict=True)]
            passed[checkpoint] = likely[0] > max(likely[1:])
        yield Outcome(name, f"{number}-{item.problem.id}", passed, 1 / len(item.options))
