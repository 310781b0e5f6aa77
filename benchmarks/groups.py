"""Groups of random tokens, and the recipe that they are trained by: cost depends on shape alone."""

import random
from collections.abc import Mapping
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
    Verdict,
)

Shape = tuple[int, int, int]
"""Prompt tokens, completion tokens, completions."""
TEMPERATURE = 0.9
LEARNING_RATE = 1e-6
LORA = {"rank": 32, "alpha": 64, "targets": "all-linear"}


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


def random_group(shape: Shape) -> tuple[tuple[int, ...], list[tuple[int, ...]], list[float]]:
    """Return a prompt, completions and rewards, a quarter of which are 1."""
    prompt, completion, size = shape
    draw = random.Random(repr(tuple(shape)))
    prompt_ids, *completions = (
        tuple(draw.randrange(100, 40_000) for _ in range(length))
        for length in (prompt, *[completion] * size)
    )
    return prompt_ids, completions, [float(i % 4 == 0) for i in range(size)]


def scored_group(shape: Shape, recipe: Recipe) -> ScoredGroup:
    """Return the same group as an objective leaves it for the loss."""
    prompt_ids, completions, rewards = random_group(shape)
    objective = make_objective(recipe)
    group = Group(
        _FAILURE,
        prompt_ids,
        tuple(
            Episode(_FAILURE.id, number, Completion(ids, "", "length"), None, None)
            for number, ids in enumerate(completions)
        ),
    )
    advantages = objective.loss.advantages(rewards)
    spans = tuple(objective.learn.spans(group, advantages, mask_truncated=False))
    return ScoredGroup(group, tuple(rewards), advantages, spans, teaches=True)


def _failure() -> Failure:
    given: Mapping[str, Any] = {}
    problem = Problem("benchmark", "benchmark", ({"role": "user", "content": "-"},), given, None)
    attempt = Attempt(problem, (1,), Completion((1,), "-", "stop"), Verdict.wrong())
    return Failure(problem.id, attempt, "benchmark", Sampling(TEMPERATURE, 1, 0))


_FAILURE = _failure()
