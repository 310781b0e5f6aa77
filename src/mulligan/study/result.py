"""What is kept of a finished run: small files from which its part of the study is computed.

``results/ID.rows.json`` holds the rows of its evaluation without texts, ``results/ID.json`` the
recipe and the costs, with a hash of both. So a study can be finished on another machine, its
weights can be deleted, and what was changed by hand is found out.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pydantic_core
from pydantic import TypeAdapter, ValidationError

from mulligan.config import changed_settings, check_recipe
from mulligan.errors import MulliganError
from mulligan.evaluation.rows import Rows, read_rows, write_rows
from mulligan.evaluation.trials import Trials, plan_of, read_trials
from mulligan.run.session import recipe_of
from mulligan.storage.atomic import write_atomically
from mulligan.storage.run_folder import RunFolder
from mulligan.study.plan import PlannedRun
from mulligan.study.seeds import digest

SCHEMA = 1
"""Version of the file's format; raised whenever older code would misread a file."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run's training took; arms are compared at equal generated tokens."""

    steps: int
    """Optimiser steps."""
    generated_tokens: int
    """Tokens of the reflections and answers that training recorded."""
    training_seconds: float
    """Wall-clock time of the training steps."""
    collecting_tokens: int = 0
    """Tokens of the first tries that the failures were found among, before training or in it."""


@dataclass(frozen=True, slots=True)
class Result:
    """A finished run."""

    run: PlannedRun
    trials: Trials
    """Without texts."""
    cost: Cost
    format: int
    """Whose rules the run followed."""


@dataclass(frozen=True, slots=True)
class _File:
    schema: int
    key: str
    settings: dict[str, Any]
    cost: Cost
    rows: str
    """SHA-256 of the rows' file."""
    digest: str
    """SHA-256 of all the above."""


_FILE = TypeAdapter(_File)


class ResultsFolder:
    """The small files of a study's finished runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, run: PlannedRun) -> Path:
        """Return the file of a run's recipe and costs."""
        return self.folder / f"{run.id}.json"

    def rows_path(self, run: PlannedRun) -> Path:
        """Return the file of a run's rows."""
        return self.folder / f"{run.id}.rows.json"

    def has(self, run: PlannedRun) -> bool:
        """Whether a run is finished. The rows are written first, so one file tells."""
        return self.path(run).exists()

    def keep(self, run: PlannedRun, folder: RunFolder) -> None:
        """Write what is kept of a run that has just ended."""
        rows = Rows(run.id, _ordered(read_trials(folder.path)), plan_of(_evaluate(run)))
        write_rows(rows, self.rows_path(run))
        content = {
            "schema": SCHEMA,
            "key": run.key,
            "settings": run.recipe.model_dump(mode="json"),
            "cost": asdict(_cost(folder)),
            "rows": _sha256(self.rows_path(run)),
        }
        content["digest"] = digest(content)
        write_atomically(self.path(run), json.dumps(content, indent=1, allow_nan=False) + "\n")

    def read(self, run: PlannedRun) -> Result:
        """Read a finished run.

        Raises:
            MulliganError: a file is damaged or was changed by hand, or was made with settings or
                inputs other than the study's.
        """
        path = self.path(run)
        file = _read(path)
        self._refuse_other_settings(run, file)
        if not self.rows_path(run).exists() or _sha256(self.rows_path(run)) != file.rows:
            raise _changed(run, self.rows_path(run))
        trials = read_rows(self.rows_path(run)).trials
        return Result(run, trials, file.cost, int(file.settings["format"]))

    def _refuse_other_settings(self, run: PlannedRun, file: _File) -> None:
        path = self.path(run)
        made_with = check_recipe(file.settings, str(path))
        # Through JSON, as what was kept: keys of options become text there.
        settings = pydantic_core.from_json(run.recipe.model_dump_json())
        planned = check_recipe(settings | {"format": made_with.format}, run.id)
        if changed := changed_settings(made_with, planned):
            listed = "\n".join(f"  {each}" for each in changed)
            raise MulliganError(
                f"The run {run.id!r} of {path} was made with other settings than the study's:\n"
                f"{listed}\nUse the study that it belongs to, or another name for this one."
            )
        if file.key != run.key:
            raise MulliganError(
                f"The run {run.id!r} of {path} was made from other files than those which its "
                "recipe names now (its task, model or rows). Restore them, or use another name "
                "for the study."
            )


def refuse_changed_folder(run: PlannedRun, folder: RunFolder, result: Result) -> None:
    """Check that a run's folder still holds what its result was made from, where it is there.

    Raises:
        MulliganError: its recipe or its evaluation was changed.
    """
    if not folder.config.exists():
        return
    if changed_settings(recipe_of(folder), run.recipe):
        raise _changed(run, folder.config)
    for when, trials in _ordered(read_trials(folder.path)).items():
        now = [_bare(trial) for trial in trials]
        if now != [_bare(trial) for trial in result.trials[when]]:
            raise _changed(run, folder.evaluation(when))


def _bare(trial: Any) -> tuple[Any, ...]:
    """Return what a row without texts keeps of a trial's verdicts."""
    answers = [trial.first_try, trial.greedy, trial.after_reflection]
    answers += [trial.second_tries[name] for name in sorted(trial.second_tries)]
    verdicts = tuple((a.verdict.status, a.verdict.reason) if a else None for a in answers)
    return (trial.problem_id, trial.sample, trial.leaked, verdicts, *sorted(trial.second_tries))


def _ordered(trials: Trials) -> Trials:
    return {when: trials[when] for when in ("before", "after")}


def _evaluate(run: PlannedRun) -> dict[str, Any]:
    return run.recipe.evaluate.model_dump()


def _read(path: Path) -> _File:
    try:
        content = pydantic_core.from_json(path.read_bytes())
        if isinstance(content, dict) and content.get("schema", 0) > SCHEMA:
            raise MulliganError(
                f"{path} was written by a newer Mulligan. Install that version or a later one."
            )
        file = _FILE.validate_python(content)
    except (OSError, ValueError, TypeError) as error:
        why = str(error).partition("\n")[0]
        if isinstance(error, ValidationError):
            first = error.errors(include_input=False, include_url=False)[0]
            why = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise MulliganError(
            f"{path} does not hold the result of a run: {why}. Remove it, and the run is "
            "made again."
        ) from error
    if digest({key: value for key, value in content.items() if key != "digest"}) != file.digest:
        raise MulliganError(
            f"The result {path} was changed after its run: its hash differs. Restore it, or remove "
            "it, and the run is made again."
        )
    return file


def _changed(run: PlannedRun, path: Path) -> MulliganError:
    return MulliganError(
        f"The run {run.id!r} was changed after it ended: {path} differs from what its result was "
        "computed from. Restore it, or remove the run and its result, and it is made again."
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _cost(folder: RunFolder) -> Cost:
    rounds = folder.rounds_begun
    steps = sum(1 for each in rounds for _ in _records(each.metrics))
    written = (path for each in rounds for path in (each.episodes, each.searched))
    tokens = sum(_tokens(record) for path in written for record in _records(path))
    tokens += sum(row["sampled"] for each in rounds for row in _records(each.consolidation))
    seconds = sum(
        row["rollout"] + row["update"] for each in rounds for row in _records(each.timings)
    )
    collecting = sum(row.get("tokens", 0) for each in rounds for row in _records(each.collected))
    return Cost(steps, tokens, round(seconds, 1), collecting)


def _records(path: Path) -> Iterator[Any]:
    if path.exists():
        with path.open("rb") as file:
            yield from (pydantic_core.from_json(line) for line in file if line.endswith(b"\n"))


def _tokens(value: Any) -> int:
    """Count the sampled tokens anywhere in a record of an episode, whatever was written in it."""
    if isinstance(value, dict):
        own = value.get("tokens")
        return (own if isinstance(own, int) else 0) + sum(map(_tokens, value.values()))
    return sum(map(_tokens, value)) if isinstance(value, list) else 0
