"""What each run says of an outcome, problem by problem: the numbers that a study pools."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mulligan.config import Evaluate, Recipe
from mulligan.errors import MulliganError
from mulligan.evaluation.controls import controls_of
from mulligan.evaluation.scores import SCORES
from mulligan.evaluation.trials import Trials
from mulligan.types import Trial

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scores:
    """An outcome of some runs at one time, or a difference of two."""

    values_RP: Floats
    """Mean over the samples of each problem; 0 where none is known."""
    weights_RP: Floats
    """How many samples are known."""

    def minus(self, other: "Scores") -> "Scores":
        """Return the difference, run by run and problem by problem, where both are known."""
        weights_RP = np.minimum(self.weights_RP, other.weights_RP)
        return Scores(np.where(weights_RP > 0, self.values_RP - other.values_RP, 0.0), weights_RP)

    def rows(self, places: Sequence[int]) -> "Scores":
        """Return some of the runs."""
        return Scores(self.values_RP[list(places)], self.weights_RP[list(places)])


def columns_of(settings: Evaluate) -> frozenset[str]:
    """Return the columns that an evaluation has with these settings."""
    columns = {"first_try", "after_reflection"} | ({"greedy"} if settings.greedy else set())
    return frozenset(columns | {control.column for control in controls_of(settings)})


def endpoints_of(recipe: Recipe) -> tuple[str, ...]:
    """Return a recipe's endpoints, the primary one first."""
    declared = recipe.evaluate.endpoints
    return (declared.primary, *declared.secondary)


def outcomes_of(recipe: Recipe) -> tuple[str, ...]:
    """Return every outcome that a recipe's evaluation has, in the order of the tables."""
    evaluated = columns_of(recipe.evaluate)
    return tuple(name for name, (needs, _) in SCORES.items() if needs <= evaluated)


def problems_of(runs: Mapping[str, Trials]) -> tuple[str, ...]:
    """Return the problems that all runs were evaluated on, in a fixed order.

    Raises:
        MulliganError: a run was evaluated on other problems, or not at both times.
    """
    found: dict[str, frozenset[str]] = {}
    for name, trials in runs.items():
        for when in ("before", "after"):
            found[f"{name} {when} training"] = frozenset(t.problem_id for t in trials[when])
    (first, expected), *others = found.items()
    for name, problems in others:
        if problems != expected:
            raise MulliganError(
                f"The runs of a study need one set of test problems, but {name} has "
                f"{len(problems - expected)} that {first} has not, and lacks "
                f"{len(expected - problems)}. Do not let the seed choose the problems."
            )
    return tuple(sorted(expected))


def scores(
    runs: Sequence[Trials], outcome: str, when: str, problems: Sequence[str]
) -> Scores | None:
    """Return an outcome of some runs at one time; None where a run knows nothing of it."""
    rows = [_of_run(trials[when], outcome, problems) for trials in runs]
    values_RP, weights_RP = (np.stack(part) for part in zip(*rows, strict=True))
    if not (weights_RP.sum(axis=1) > 0).all():
        return None
    return Scores(values_RP, weights_RP)


def _of_run(
    trials: Sequence[Trial], outcome: str, problems: Sequence[str]
) -> tuple[Floats, Floats]:
    place = {problem: number for number, problem in enumerate(problems)}
    sums_P, weights_P = np.zeros(len(problems)), np.zeros(len(problems))
    _, score = SCORES[outcome]
    for trial in trials:
        value = score(trial)
        if value is not None:
            sums_P[place[trial.problem_id]] += value
            weights_P[place[trial.problem_id]] += 1
    return sums_P / np.maximum(weights_P, 1), weights_P
