"""The trials of an evaluation as they are kept, and what their table is called and made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import BeforeValidator, ValidationError

from mulligan.config import Endpoints, Evaluate
from mulligan.errors import MulliganError
from mulligan.evaluation.controls import CONTROLS
from mulligan.storage.records import RecordLog
from mulligan.storage.run_folder import RunFolder
from mulligan.types import Trial

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


@dataclass(frozen=True, slots=True)
class Plan:
    """What a recipe declares before its run: endpoints, and the margin of equivalence."""

    endpoints: Endpoints
    margin: float


def plan_of(evaluate: Any = None) -> Plan:
    """Return the plan of a run's ``evaluate`` settings; the defaults where it has none.

    Runs of version 0.1.0 declared nothing: the defaults are then applied after the fact.

    Raises:
        MulliganError: the settings are not those of a recipe.
    """
    names = ("endpoints", "equivalence_margin")
    given = evaluate if isinstance(evaluate, Mapping) else {}
    known = {name: given[name] for name in names if name in given}
    try:
        settings = Evaluate.model_validate({"problems": 1, **known})
    except ValidationError as error:
        what = error.errors()[0]
        raise MulliganError(f"evaluate.{what['loc'][0]}: {what['msg']}") from error
    return Plan(settings.endpoints, settings.equivalence_margin)


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
