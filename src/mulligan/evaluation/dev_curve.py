"""Evaluation on the dev split while training goes on: cheap, and what chooses the checkpoint.

At regular intervals each dev problem is tried once: first try, after reflection, and asked
again without one. Every evaluation draws from the same seeds, so that steps are compared on the
same luck as far as that goes. Its trials are kept in ``dev.jsonl``, under ``step-N``.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mulligan.config import Recipe
from mulligan.evaluation.evaluate import Protocol
from mulligan.evaluation.scores import judged
from mulligan.evaluation.statistics import Interval, paired_bootstrap, wilson
from mulligan.evaluation.trials import open_trials
from mulligan.types import Problem, Trial


@dataclass(frozen=True, slots=True)
class DevPoint:
    """What one evaluation on dev found; a rate is None where no row of it was judged."""

    step: int
    """Training steps that were done, or rounds."""
    first_try: Interval | None
    after_reflection: Interval | None
    after_nothing: Interval | None
    reflection_over_nothing: Interval | None
    """What reflecting adds to being asked again: a difference on the same problems."""


def dev_protocol(recipe: Recipe, problems: Sequence[Problem]) -> Protocol:
    """Return the cheap protocol: one sample, and the one control that the headline needs."""
    cheap = {"samples": 1, "greedy": False, "controls": ("nothing",)}
    short = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update=cheap)})
    return Protocol.of(short, problems)


def dev_name(step: int) -> str:
    """Return what the trials of an evaluation on dev are called."""
    return f"step-{step}"


def round_name(number: int) -> str:
    """Return what the trials of an evaluation after a round are called; 0 is before the first."""
    return f"round-{number}"


def dev_curve(trials: Iterable[Trial]) -> list[DevPoint]:
    """Return a point per evaluation, in the order of steps."""
    return [_point(step, rows) for step, rows in _by_step(trials).items()]


def read_dev(path: Path) -> list[DevPoint]:
    """Return the curve of a run; empty where nothing was evaluated on dev.

    Raises:
        MulliganError: a line is not a trial, or a trial occurs twice.
    """
    with open_trials(path) as log:
        return dev_curve(log)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a step compares with the trained steps before it that were evaluated."""

    is_best: bool
    """Whether it solves more after reflection than each of them."""
    since_best: int
    """Evaluations after the best one, up to this step."""


def standing(trials: Iterable[Trial], step: int) -> Standing:
    """Compare a step with those before it; later ones, from before a kill, do not count."""
    scores = {
        each: sum(judged(t, "after_reflection") is True for t in rows) / len(rows)
        for each, rows in _by_step(trials).items()
        if 0 < each <= step
    }
    best = max(scores, key=lambda each: (scores[each], -each), default=None)
    return Standing(best == step, sum(each > best for each in scores) if best else 0)


def _by_step(trials: Iterable[Trial]) -> dict[int, list[Trial]]:
    steps: dict[int, list[Trial]] = {}
    for trial in trials:
        steps.setdefault(int(trial.when.rpartition("-")[2]), []).append(trial)
    return dict(sorted(steps.items()))


def _point(step: int, trials: Sequence[Trial]) -> DevPoint:
    rows = [
        (nothing, reflected, t.problem_id)
        for t in trials
        if (nothing := judged(t, "after_nothing")) is not None
        and (reflected := judged(t, "after_reflection")) is not None
    ]
    return DevPoint(
        step=step,
        first_try=_rate(trials, "first_try"),
        after_reflection=_rate(trials, "after_reflection"),
        after_nothing=_rate(trials, "after_nothing"),
        reflection_over_nothing=paired_bootstrap(*zip(*rows, strict=True)) if rows else None,
    )


def _rate(trials: Sequence[Trial], column: str) -> Interval | None:
    known = [passed for t in trials if (passed := judged(t, column)) is not None]
    return wilson(sum(known), len(known)) if known else None
