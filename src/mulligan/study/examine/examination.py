"""An examination: a question, the runs that it is asked of, and what they say together.

The rows of each run are kept in its folder, ``examined/QUESTION.json``; a run that has them is not
asked again. What is published is small: the pooled quantities, and the rows beside them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mulligan.errors import MulliganError
from mulligan.run.session import Session
from mulligan.storage.atomic import write_atomically
from mulligan.study.examine.pooling import Quantity
from mulligan.study.examine.questions import Question


@dataclass(frozen=True, slots=True)
class Examination:
    """What some runs say to a question."""

    question: Question
    problems: int
    rows: Mapping[str, Sequence[Any]]
    """By run."""
    quantities: tuple[Quantity, ...]


def rows_of_run(session: Session, question: Question, problems: int) -> list[Any]:
    """Return a run's rows: those that are kept in its folder, or new ones.

    Raises:
        MulliganError: those that are kept cannot be read, or were made with another number of
            problems; or whatever stops the question.
    """
    path = session.run.examined(question.name)
    if path.exists():
        return _read(path, question, problems)
    rows = list(question.rows(session, problems))
    kept = {"problems": problems, "rows": [asdict(row) for row in rows]}
    write_atomically(path, json.dumps(kept, indent=1, allow_nan=False) + "\n")
    return rows


def _read(path: Path, question: Question, problems: int) -> list[Any]:
    try:
        kept = json.loads(path.read_bytes())
        rows: list[Any] = TypeAdapter(list[question.row_type]).validate_python(kept["rows"])  # type: ignore[name-defined]
        before = kept["problems"]
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise MulliganError(f"Cannot read {path}: {error}. Delete it to ask again.") from error
    if before != problems:
        raise MulliganError(
            f"{path} holds what {before} problems said, but {problems} are asked for. Ask for "
            f"{before} (--problems {before}), or delete it to ask again."
        )
    return rows


def examine(question: Question, problems: int, rows: Mapping[str, Sequence[Any]]) -> Examination:
    """Pool what the runs say."""
    return Examination(question, problems, rows, tuple(question.summarise(rows)))


def as_json(made: Examination) -> dict[str, Any]:
    """Return an examination as plain JSON values, without its rows."""
    return {
        "question": made.question.name,
        "says": made.question.says,
        "problems": made.problems,
        "runs": list(made.rows),
        "quantities": [asdict(each) for each in made.quantities],
    }


def write_examination(made: Examination, path: Path, command: str) -> None:
    """Write what was found to a file, and the rows that it comes from beside it.

    Raises:
        MulliganError: a file cannot be written.
    """
    names = [field.name for field in fields(made.question.row_type)]
    runs = {run: [_plain(row) for row in rows] for run, rows in made.rows.items()}
    body = ",\n".join(
        f"  {json.dumps(run)}: [\n   " + ",\n   ".join(lines) + "\n  ]"
        for run, lines in runs.items()
    )
    head = json.dumps({"columns": names})[:-1]
    write_atomically(path.with_suffix(".rows.json"), f'{head},\n "runs": {{\n{body}\n }}\n}}\n')
    content = {"command": command, **as_json(made)}
    write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def _plain(row: Any) -> str:
    return json.dumps(astuple(row), separators=(",", ":"), allow_nan=False)
