"""A study as it is committed: its table, and every verdict that the table was computed from.

``NAME.json`` is the table. ``NAME.rows.json`` holds a letter for each trial: ``problems`` and
``verdicts`` are lists, ``runs`` gives for each run, time and column a text whose letters stand for
the verdicts, in the order of the problems (and of their samples); a dot is no answer. ``leaked``
has ``+`` where the reflection states a passing answer, ``-`` where not, and a dot where unknown.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from string import ascii_letters, digits

from mulligan.errors import MulliganError
from mulligan.evaluation.scores import answer_in
from mulligan.evaluation.trials import COLUMNS, TIMES
from mulligan.storage.atomic import write_atomically
from mulligan.study.conduct import Conducted
from mulligan.study.show import table_as_json
from mulligan.types import Status, Trial

LETTERS = ascii_letters + digits
NONE = "."
LEAKED = {True: "+", False: "-", None: NONE}

Verdicts = dict[tuple[Status, str], int]


def write_published(made: Conducted, folder: Path) -> Path:
    """Write the table of a study and its rows into a folder; return the table's path.

    Raises:
        MulliganError: the verifier gave more different reasons than there are letters, or a file
            cannot be written.
    """
    name, study = made.plan.name, made.plan.path
    content = {
        "command": f"mulligan study {study.parent.name}/{study.name}",
        **table_as_json(made.table),
    }
    path = folder / f"{name}.json"
    write_atomically(folder / f"{name}.rows.json", _rows(made))
    write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return path


def _rows(made: Conducted) -> str:
    verdicts: Verdicts = {}
    results = made.results.values()
    problems = sorted({t.problem_id for each in results for t in each.trials["before"]})
    runs = {
        name: {when: _columns(result.trials[when], verdicts) for when in TIMES}
        for name, result in made.results.items()
    }
    content = {"schema": 1, "verdicts": list(verdicts), "problems": problems, "runs": runs}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _columns(trials: Sequence[Trial], verdicts: Verdicts) -> dict[str, str]:
    ordered = sorted(trials, key=lambda trial: (trial.problem_id, trial.sample))
    texts = {
        column: "".join(_letter(trial, column, verdicts) for trial in ordered) for column in COLUMNS
    }
    texts["leaked"] = "".join(LEAKED[trial.leaked] for trial in ordered)
    return {column: text for column, text in texts.items() if text.strip(NONE)}


def _letter(trial: Trial, column: str, verdicts: Verdicts) -> str:
    answer = answer_in(trial, column)
    if answer is None:
        return NONE
    place = verdicts.setdefault((answer.verdict.status, answer.verdict.reason), len(verdicts))
    if place >= len(LETTERS):
        raise MulliganError(
            f"The verifier gave more than {len(LETTERS)} different reasons, too many for rows of "
            "one letter each. Leave --publish out; runs/NAME/results holds all rows."
        )
    return LETTERS[place]
