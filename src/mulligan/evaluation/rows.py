"""The rows of an evaluation without texts: small enough to commit, enough to make its table again.

A file is one JSON object. ``verdicts`` lists the (status, reason) pairs that occur, ``columns`` the
columns; each row is one trial: when, problem, sample, whether its reflection leaks, its reflection
as (tokens, mean log-probability) or null, and for each column (verdict, tokens, mean
log-probability) or null, where the verdict is a place in ``verdicts``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pydantic_core
from pydantic import TypeAdapter, ValidationError

from mulligan.config import Endpoints
from mulligan.errors import MulliganError
from mulligan.evaluation.controls import BY_COLUMN
from mulligan.evaluation.scores import answer_in
from mulligan.evaluation.trials import COLUMNS, TIMES, Plan, Trials
from mulligan.storage.atomic import write_atomically
from mulligan.types import Answer, Status, Trial, Verdict

SCHEMA = 1
"""Version of the file's format; raised whenever older code would misread a file."""

AnswerCell = tuple[int, int, float | None]
Row = tuple[
    str, str, int, bool | None, tuple[int, float | None] | None, tuple[AnswerCell | None, ...]
]


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a run, and what its recipe declared."""

    run: str
    """Name of the run."""
    trials: Trials
    plan: Plan


@dataclass(frozen=True, slots=True)
class _File:
    schema: int
    run: str
    endpoints: Endpoints
    equivalence_margin: float
    verdicts: tuple[tuple[Status, str], ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


_FILE = TypeAdapter(_File)


def write_rows(rows: Rows, path: Path) -> None:
    """Write the rows of a run, one per line.

    Raises:
        MulliganError: the file cannot be written.
    """
    trials = [trial for when in rows.trials for trial in rows.trials[when]]
    columns = [column for column in COLUMNS if any(answer_in(t, column) for t in trials)]
    verdicts: dict[tuple[Status, str], int] = {}
    lines = [_row(trial, columns, verdicts) for trial in trials]
    head = {
        "schema": SCHEMA,
        "run": rows.run,
        "endpoints": rows.plan.endpoints.model_dump(),
        "equivalence_margin": rows.plan.margin,
        "verdicts": list(verdicts),
        "columns": columns,
    }
    opened = json.dumps(head, indent=1).removesuffix("\n}")
    body = ",\n".join(json.dumps(line, separators=(",", ":")) for line in lines)
    write_atomically(path, f'{opened},\n "rows": [\n{body}\n]\n}}\n')


def read_rows(path: Path) -> Rows:
    """Read the rows of a run; the trials have no texts.

    Raises:
        MulliganError: the file cannot be read, or does not hold rows.
    """
    try:
        content = pydantic_core.from_json(path.read_bytes())
        if isinstance(content, dict) and isinstance(content.get("schema"), int):
            _refuse_newer(path, content["schema"])
        file = _FILE.validate_python(content)
        trials = [_trial(row, file) for row in file.rows]
    except (OSError, ValueError, IndexError) as error:
        why = str(error).partition("\n")[0]
        if isinstance(error, ValidationError):
            first = error.errors(include_input=False, include_url=False)[0]
            why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise MulliganError(
            f"{path} does not hold the rows of an evaluation: {why}. "
            "Write such a file with `mulligan report RUN --rows FILE`."
        ) from error
    whens = [*TIMES, *sorted({trial.when for trial in trials} - {*TIMES})]
    by_when = {when: tuple(t for t in trials if t.when == when) for when in whens}
    return Rows(file.run, by_when, Plan(file.endpoints, file.equivalence_margin))


def _refuse_newer(path: Path, schema: int) -> None:
    if schema > SCHEMA:
        raise MulliganError(
            f"{path} was written by a newer Mulligan (rows of format {schema}; this one reads up "
            f"to {SCHEMA}). Install that version or a later one."
        )


def _row(trial: Trial, columns: Sequence[str], verdicts: dict[tuple[Status, str], int]) -> Row:
    def cell(answer: Answer | None) -> AnswerCell | None:
        if answer is None:
            return None
        key = (answer.verdict.status, answer.verdict.reason)
        return (verdicts.setdefault(key, len(verdicts)), answer.tokens, answer.logprob)

    reflection = None
    if trial.reflection is not None:
        reflection = (trial.reflection_tokens, trial.reflection_logprob)
    cells = tuple(cell(answer_in(trial, column)) for column in columns)
    return (trial.when, trial.problem_id, trial.sample, trial.leaked, reflection, cells)


def _trial(row: Row, file: _File) -> Trial:
    when, problem_id, sample, leaked, reflection, cells = row
    answers = {
        column: _answer(cell, file)
        for column, cell in zip(file.columns, cells, strict=True)
        if cell is not None
    }
    if unknown := answers.keys() - {*COLUMNS}:
        raise ValueError(f"there is no column {sorted(unknown)[0]!r}")
    if "first_try" not in answers:
        raise ValueError(f"the trial {when}-{problem_id}-{sample} has no first try")
    trial = Trial(
        problem_id=problem_id,
        sample=sample,
        when=when,
        question="",
        first_try=answers["first_try"],
        greedy=answers.get("greedy"),
        leaked=leaked,
        after_reflection=answers.get("after_reflection"),
        second_tries={
            BY_COLUMN[column].name: answer
            for column, answer in answers.items()
            if column in BY_COLUMN
        },
    )
    if reflection is None:
        return trial
    tokens, logprob = reflection
    return replace(trial, reflection="", reflection_tokens=tokens, reflection_logprob=logprob)


def _answer(cell: AnswerCell, file: _File) -> Answer:
    place, tokens, logprob = cell
    if place < 0:
        raise ValueError(f"there is no verdict number {place}")
    status, reason = file.verdicts[place]
    return Answer("", Verdict(status, reason), tokens, "stop", logprob=logprob)
