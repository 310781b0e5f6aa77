"""Reads the trials of an evaluation, and says what each counts as in each column."""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Literal, get_args

from mulligan.storage.records import RecordLog
from mulligan.storage.run_folder import RunFolder
from mulligan.types import Answer, Trial

When = Literal["before", "after"]
Column = Literal["first_try", "after_reflection", "after_nothing", "after_other_reflection"]
Trials = Mapping[When, Sequence[Trial]]

WHENS: tuple[When, ...] = get_args(When)
COLUMNS: tuple[Column, ...] = get_args(Column)
CONTROLS: tuple[Column, ...] = ("after_nothing", "after_other_reflection")

TITLES = {
    "first_try": "First try",
    "after_reflection": "After reflection",
    "after_nothing": "Control: no reflection",
    "after_other_reflection": "Control: other reflection",
    "reflection_gain": "Gain from reflecting",
}
"""How a person reads the names of columns."""


def read_trials(run: Path) -> Trials:
    """Return the trials of a run before and after training; empty where there are none yet.

    A last line that a crash tore is left out, which the log says.

    Raises:
        MulliganError: a line is not a trial, or a trial occurs twice.
    """
    return {when: _read(RunFolder(run).evaluation(when)) for when in WHENS}


def answer_in(trial: Trial, column: Column) -> Answer | None:
    """Return the answer given in a column, or None where none was asked for."""
    answer: Answer | None = getattr(trial, column)
    return answer


def judged(trial: Trial, column: Column) -> bool | None:
    """Return whether a trial counts as passed in a column; None where that is not known.

    A second try counts as passed where the first try did: nothing was left to mend.
    """
    if trial.first_try.verdict.status == "error":
        return None
    if trial.first_try.verdict.passed:
        return True
    answer = answer_in(trial, column)
    if answer is None or answer.verdict.status == "error":
        return None
    return answer.verdict.passed


def _read(path: Path) -> Sequence[Trial]:
    with RecordLog(path, Trial, key=attrgetter("id")) as log:
        return tuple(log)
