"""How errors change: the share of each of the verifier's reasons before and after training."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mulligan.evaluation.scores import answer_in, outcome
from mulligan.evaluation.trials import TIMES, Trials
from mulligan.study.outcomes import Scores
from mulligan.study.result import Result
from mulligan.study.statistics import pooled
from mulligan.types import Trial

COLUMNS = ("first_try", "after_reflection")

Kind = tuple[str, str]
"""A status and a reason."""


@dataclass(frozen=True, slots=True)
class ReasonChange:
    """How large a share of an arm's answers came to one end, pooled over its runs; fractions."""

    arm: str
    column: str
    """``first_try``, or ``after_reflection``, where a passing first try counts as passed."""
    status: str
    reason: str
    before: float
    after: float
    per_run: tuple[float, ...]
    """The change in each run, in the order of the seeds."""
    low: float | None = None
    high: float | None = None
    """Interval of the change; None with a single run."""


def reason_changes(
    arm: str, found: Sequence[Result], problems: Sequence[str], level: float
) -> Iterator[ReasonChange]:
    """Yield the change of each reason, the most frequent before training first."""
    runs = [each.trials for each in found]
    for column in COLUMNS:
        for kind in _kinds(runs, column):
            before, after = (_shares(runs, column, kind, w, problems) for w in TIMES)
            change = after.minus(before)
            known_R = change.weights_RP.sum(axis=1)
            if not (known_R > 0).all():
                continue
            means_R = (change.values_RP * change.weights_RP).sum(axis=1) / known_R
            interval = (
                pooled(change.values_RP, change.weights_RP, level=level) if len(runs) > 1 else None
            )
            yield ReasonChange(
                arm,
                column,
                *kind,
                before=_mean(before),
                after=_mean(after),
                per_run=tuple(map(float, means_R)),
                low=interval.low if interval else None,
                high=interval.high if interval else None,
            )


def _kinds(runs: Sequence[Trials], column: str) -> list[Kind]:
    """Return the outcomes that occur, passed ones left out: the table has those."""
    counts: Counter[Kind] = Counter(
        kind
        for trials in runs
        for when in TIMES
        for trial in trials[when]
        if (kind := _outcome(trial, column)) is not None and kind[0] != "passed"
    )
    return sorted(counts, key=lambda kind: (-counts[kind], kind))


def _outcome(trial: Trial, column: str) -> Kind | None:
    if not trial.first_try.verdict.passed and answer_in(trial, column) is None:
        return None
    return outcome(trial, column)


def _shares(
    runs: Sequence[Trials], column: str, kind: Kind, when: str, problems: Sequence[str]
) -> Scores:
    place = {problem: number for number, problem in enumerate(problems)}
    hits_RP, weights_RP = np.zeros((2, len(runs), len(problems)))
    for row, trials in enumerate(runs):
        for trial in trials[when]:
            found = _outcome(trial, column)
            if found is not None:
                hits_RP[row, place[trial.problem_id]] += found == kind
                weights_RP[row, place[trial.problem_id]] += 1
    return Scores(hits_RP / np.maximum(weights_RP, 1), weights_RP)


def _mean(shares: Scores) -> float:
    known_R = shares.weights_RP.sum(axis=1)
    means_R = (shares.values_RP * shares.weights_RP).sum(axis=1) / np.maximum(known_R, 1)
    return float(means_R.mean())
