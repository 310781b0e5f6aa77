"""Reads the trials of an evaluation, and says what each counts as in each column."""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BeforeValidator

from mulligan.evaluation.controls import BY_COLUMN, CONTROLS
from mulligan.storage.records import RecordLog
from mulligan.storage.run_folder import RunFolder
from mulligan.types import Answer, Trial

Trials = Mapping[str, Sequence[Trial]]
"""Trials by when: ``before``, ``after``, then other models by name."""

TIMES = ("before", "after")
COLUMNS = ("first_try", "greedy", "after_reflection", *(control.column for control in CONTROLS))
"""Every column a table may have, in the order in which it is shown."""

TITLES = {
    "first_try": "First try",
    "greedy": "First try, greedy",
    "after_reflection": "After reflection",
    **{control.column: control.title for control in CONTROLS},
}
"""How a person reads the names of columns."""


def open_trials(path: Path) -> RecordLog[Trial]:
    """Open the trials of one evaluation; lines that version 0.1.0 wrote are read too.

    Raises:
        MulliganError: a line is not a trial, or a trial occurs twice.
    """
    # pydantic reads an annotated type as it reads the type itself.
    record_type = cast("type[Trial]", Annotated[Trial, BeforeValidator(_read_older)])
    return RecordLog(path, record_type, key=attrgetter("id"))


def read_trials(run: Path) -> Trials:
    """Return the trials of a run by when; empty before and after training where there are none.

    A last line that a crash tore is left out, which the log says.

    Raises:
        MulliganError: a line is not a trial, or a trial occurs twice.
    """
    folder = RunFolder(run)
    others = sorted({path.stem for path in folder.evaluation("*").parent.glob("*.jsonl")})
    names = [*TIMES, *(name for name in others if name not in TIMES)]
    return {name: _read(folder.evaluation(name)) for name in names}


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


def was_asked(trials: Sequence[Trial], column: str) -> bool:
    """Return whether a column was evaluated at all: a control may not have been asked for."""
    if any(answer_in(trial, column) for trial in trials):
        return True
    # Where nothing failed there was nothing to ask; the columns that every trial has are there.
    return column in ("first_try", "after_reflection") and not any(
        judged(trial, "first_try") is False for trial in trials
    )


def _read(path: Path) -> Sequence[Trial]:
    with open_trials(path) as log:
        return tuple(log)


def _read_older(line: Any) -> Any:
    """Return a line as it is written now; version 0.1.0 had a field for each of two controls."""
    if not isinstance(line, dict) or "second_tries" in line:
        return line
    names = ("nothing", "other_reflection")
    found = {name: line.pop(f"after_{name}", None) for name in names}
    return {**line, "second_tries": {name: said for name, said in found.items() if said}}
