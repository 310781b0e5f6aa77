"""Groups of random tokens, and the recipe that they are trained by: cost depends on shape alone."""

import random
from collections.abc import Sequence
from typing import Any

from mulligan.config import Recipe
from mulligan.objectives.objective import make_objective
from mulligan.types import (
    Attempt,
    Completion,
    Episode,
    Failure,
    Group,
    Problem,
    Sampling,
    ScoredGroup,
    TokenIds,
    Verdict,
)

Shape = tuple[int, int, int]
"""Prompt tokens, completion tokens, completions."""
TEMPERATURE = 0.9
LEARNING_RATE = 1e-6
LORA = {"rank": 32, "alpha": 64, "targets": "all-linear"}
_PROBLEM = Problem.create("-", {})
_FAILURE = Failure(
    _PROBLEM.id,
    Attempt(_PROBLEM, (1,), Completion((1,), "-", "stop"), Verdict.wrong()),
    "benchmark",
    Sampling(TEMPERATURE, 1, 0),
)
"""What all groups are about: the loss does not look at it."""


def benchmark_recipe(
    *,
    reflection_tokens: int,
    answer_tokens: int = 24,
    failures: int = 1,
    group_size: int = 8,
    **train: Any,
) -> Recipe:
    """Return a recipe of the method without a KL term, as TRL's default has none either."""
    return Recipe.model_validate(
        {
            "name": "benchmark",
            "task": "countdown",
            "generate": {
                "temperature": TEMPERATURE,
                "answer_tokens": answer_tokens,
                "reflection_tokens": reflection_tokens,
            },
            "collect": {"problems": failures},
            "train": {
                "steps": 1000,
                "failures_per_step": failures,
                "group_size": group_size,
                "learning_rate": LEARNING_RATE,
                "kl_beta": 0.0,
                "loss": "dapo",
                **train,
            },
            "evaluate": {"problems": 1},
        }
    )


def random_group(shape: Shape, vocabulary: int, number: int = 0) -> tuple[TokenIds, list[TokenIds]]:
    """Return the prompt and the completions of a group; groups of other numbers are others."""
    prompt, completion, size = shape
    draw = random.Random(repr((tuple(shape), number)))
    prompt_ids, *completions = (
        tuple(draw.randrange(3, vocabulary) for _ in range(length))
        for length in (prompt, *[completion] * size)
    )
    return prompt_ids, completions


def rewards_of(size: int) -> list[float]:
    """Return the rewards of a group: a quarter of them are 1, at least one."""
    return [float(number % 4 == 0) for number in range(size)]


def scored_group(
    prompt_ids: TokenIds, completions: Sequence[TokenIds], recipe: Recipe
) -> ScoredGroup:
    """Return a group as an objective leaves it for the loss."""
    objective, rewards = make_objective(recipe), rewards_of(len(completions))
    episodes = tuple(
        Episode(_FAILURE.id, number, Completion(ids, "", "length"), None, None)
        for number, ids in enumerate(completions)
    )
    group = Group(_FAILURE, prompt_ids, episodes)
    advantages = objective.loss.advantages(rewards)
    spans = tuple(objective.learn.spans(group, advantages, mask_truncated=False))
    return ScoredGroup(group, tuple(rewards), advantages, spans, teaches=True)
