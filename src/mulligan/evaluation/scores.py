"""What a trial counts as: in each column, and in what is compared before and after training."""

from collections.abc import Callable, Sequence
from functools import partial

from mulligan.config import Endpoints
from mulligan.errors import MulliganError, nearest
from mulligan.evaluation.controls import BY_COLUMN, CONTROLS
from mulligan.evaluation.trials import COLUMNS, TITLES
from mulligan.types import Answer, Status, Trial

Score = Callable[[Trial], float | None]
"""A trial's score, or None where it is not known."""


def answer_in(trial: Trial, column: str) -> Answer | None:
    """Return the answer given in a column, or None where none was asked for."""
    if column in BY_COLUMN:
        return trial.second_tries.get(BY_COLUMN[column].name)
    answer: Answer | None = getattr(trial, column)
    return answer


def judged(trial: Trial, column: str) -> bool | None:
    """Return whether a trial counts as passed in a column; None where that is not known.

    A second try counts as passed where the first try did: nothing was left to correct. A control
    that follows the retry counts as passed where the retry did.
    """
    if column != "greedy":
        if trial.first_try.verdict.status == "error":
            return None
        if trial.first_try.verdict.passed:
            return True
    if column in BY_COLUMN and BY_COLUMN[column].after_retry:
        retried = judged(trial, "after_reflection")
        if retried is not False:
            return retried
    answer = answer_in(trial, column)
    if answer is None or answer.verdict.status == "error":
        return None
    return answer.verdict.passed


def outcome(trial: Trial, column: str) -> tuple[Status, str] | None:
    """Return (status, reason) of a first try or of what came of it after reflection.

    None where there was no answer, or where the verifier broke.
    """
    first = trial.first_try.verdict
    answer = trial.first_try if first.passed else answer_in(trial, column)
    if "error" in (first.status, answer.verdict.status if answer else "error"):
        return None
    assert answer is not None
    return answer.verdict.status, answer.verdict.reason


def was_asked(trials: Sequence[Trial], column: str) -> bool:
    """Return whether a column was evaluated at all: a control may not have been asked for."""
    if any(answer_in(trial, column) for trial in trials):
        return True
    # Where nothing failed there was nothing to ask; the columns that every trial has are there.
    return column in ("first_try", "after_reflection") and not any(
        judged(trial, "first_try") is False for trial in trials
    )


def _less(trial: Trial, column: str, other: str) -> float | None:
    """Return 1, 0 or -1: whether a trial is solved in one column, less whether in another."""
    first, second = judged(trial, column), judged(trial, other)
    return None if first is None or second is None else float(first) - float(second)


SCORES: dict[str, tuple[frozenset[str], Score]] = {
    **{column: (frozenset({column}), partial(judged, column=column)) for column in COLUMNS},
    **{
        f"reflection_over_{control.name}": (
            frozenset({"after_reflection", control.column}),
            partial(_less, column="after_reflection", other=control.column),
        )
        for control in CONTROLS
    },
    "gain_with_second_chance": (
        frozenset({"after_reflection", "first_try"}),
        partial(_less, column="after_reflection", other="first_try"),
    ),
}
"""What is compared before and after training, by name: the columns it needs, a trial's score.

``reflection_over_nothing`` is what reflection adds: a second chance alone adds nothing to it. The
second chance is part of ``gain_with_second_chance``.
"""


SCORE_TITLES = {
    **TITLES,
    **{
        f"reflection_over_{control.name}": f"Reflection over {control.name.replace('_', ' ')}"
        for control in CONTROLS
    },
    "reflection_over_nothing": "What reflection adds",
    "gain_with_second_chance": "Reflection + second chance",
}
"""How a person reads the names of what is compared."""


def check_endpoints(endpoints: Endpoints) -> None:
    """Check that the endpoints of a recipe are differences that a report knows.

    Raises:
        MulliganError: one is not, or is named twice.
    """
    names = [endpoints.primary, *endpoints.secondary]
    for name in names:
        if name not in SCORES:
            raise MulliganError(
                f"evaluate.endpoints: there is no endpoint {name!r}; {nearest(name, list(SCORES))}"
            )
        if names.count(name) > 1:
            raise MulliganError(f"evaluate.endpoints names {name!r} twice; each is tested once.")
