"""What a run is doing, read from its folder alone: nothing is locked, nothing is written."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Literal

from mulligan.config import Recipe, check_recipe, read_yaml
from mulligan.errors import MulliganError
from mulligan.evaluation.results import difference_of
from mulligan.evaluation.tables import Difference
from mulligan.evaluation.trials import read_trials
from mulligan.report.sheets import points
from mulligan.storage.lines import count_lines, lines_backwards
from mulligan.storage.lock import holder
from mulligan.storage.run_folder import RunFolder

State = Literal["running", "stopped", "finished", "unreadable"]

HEADLINES = {
    "reflection_over_nothing": "what reflecting adds over asking again",
    "after_reflection": "solved after reflection",
}
"""Differences that may stand for a run, the first that it has; and how a person reads them."""

_RECENT_STEPS = 20
"""How many of the newest steps the time left is estimated from."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the stage in hand is."""

    stage: str
    done: int
    total: int
    unit: str
    """What is counted, as a plural."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A line in the list of runs."""

    name: str
    state: State
    """``running``: a process holds the run; ``stopped``: none does, and stages are left."""
    task: str = ""
    model: str = ""
    progress: Progress | None = None
    """None once every stage is done."""
    seconds_left: float | None = None
    """Of the stage in hand; None where nothing is known about its pace."""
    headline: Difference | None = None
    """After minus before training, as a fraction; None until both are evaluated."""
    problem: str = ""
    """Why a folder cannot be read."""


def find_runs(folder: Path) -> list[RunFolder]:
    """Return the runs directly in a folder, or the folder itself where it is a run.

    One that this user may not look into counts as a run: its status says that it is unreadable.

    Raises:
        MulliganError: there is no such folder, or it cannot be read.
    """
    try:
        if not folder.is_dir():
            raise MulliganError(f"No folder {str(folder)!r}. Give the folder that holds the runs.")
        if RunFolder(folder).config.is_file():
            return [RunFolder(folder)]
        inside = sorted(each for each in folder.iterdir() if not each.name.startswith("."))
    except OSError as error:
        raise MulliganError(f"Cannot read the folder {str(folder)!r}: {error.strerror}.") from error
    return [RunFolder(each) for each in inside if _may_be_run(each)]


def _may_be_run(folder: Path) -> bool:
    try:
        return RunFolder(folder).config.is_file()
    except OSError:
        return True


def read_status(run: RunFolder) -> RunStatus:
    """Read what a run is doing; one that cannot be read is listed with the reason."""
    name = run.path.resolve().name
    try:
        recipe = recipe_in(run)
        progress = _progress(run, recipe)
        running = holder(run.path) is not None
        return RunStatus(
            name=name,
            state="running" if running else "stopped" if progress else "finished",
            task=recipe.task,
            model=recipe.model,
            progress=progress,
            seconds_left=_seconds_left(run, progress) if running else None,
            headline=_headline(run),
        )
    except (MulliganError, OSError) as error:
        return RunStatus(name, "unreadable", problem=str(error))
    except (TypeError, ValueError) as error:  # a record that holds something else than it should
        return RunStatus(name, "unreadable", problem=f"A record of it is damaged: {error}.")


class StatusReader:
    """Reads statuses again and again; what has not changed on the disk is not read anew."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[tuple[object, ...], RunStatus]] = {}

    def read(self, run: RunFolder) -> RunStatus:
        """Return what a run is doing now."""
        marks = (*map(_mark, _watched(run)), holder(run.path))
        known = self._known.get(run.path)
        if known is not None and known[0] == marks:
            return known[1]
        status = read_status(run)
        self._known[run.path] = marks, status
        return status


def _watched(run: RunFolder) -> list[Path]:
    """Return the files that a status is made of."""
    trials = [run.evaluation("before"), run.evaluation("after")]
    newest = run.newest_round
    steps = [run.warmup_log, newest.collected, newest.metrics, newest.timings]
    return [run.config, run.stages, *steps, *trials]


def _mark(path: Path) -> tuple[int, int] | None:
    """Return what changes whenever a file does."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def status_as_json(status: RunStatus) -> dict[str, Any]:
    """Return a status as plain JSON values, with the texts that people read."""
    return {
        "name": status.name,
        "state": status.state,
        "task": status.task,
        "model": status.model,
        "progress": progress_text(status),
        "share": status.progress.done / max(status.progress.total, 1) if status.progress else 1.0,
        "left": time_text(status.seconds_left),
        "headline": headline_text(status),
        "problem": status.problem,
    }


def recipe_in(run: RunFolder) -> Recipe:
    """Read the recipe of a run, whatever version made it.

    Raises:
        MulliganError: it is not a recipe.
    """
    settings = {key: value for key, value in read_yaml(run.config).items() if key != "made_with"}
    return check_recipe(settings, str(run.config))


def _progress(run: RunFolder, recipe: Recipe) -> Progress | None:
    """Return how far the first stage is that is not done."""
    done = _stages_done(run)
    trials = recipe.evaluate.problems * recipe.evaluate.samples
    stages = [
        Progress("warmup", *_warmup_steps(run, recipe), "steps"),
        Progress("collect", _collected(run), _attempts(recipe), "attempts"),
        Progress("evaluate-before", count_lines(run.evaluation("before")), trials, "trials"),
        Progress("train", *_train_steps(run, recipe), "steps"),
        Progress("evaluate-after", count_lines(run.evaluation("after")), trials, "trials"),
        Progress("report", 0, 1, "pages"),
    ]
    return next((stage for stage in stages if stage.stage not in done), None)


def _stages_done(run: RunFolder) -> Sequence[str]:
    if not run.stages.exists():
        return []
    try:
        return [str(name) for name in json.loads(run.stages.read_bytes())]
    except (ValueError, TypeError, RecursionError) as error:
        raise MulliganError(f"Cannot read {run.stages}: {error}.") from error


def _warmup_steps(run: RunFolder, recipe: Recipe) -> tuple[int, int]:
    if recipe.sft is None:
        return 0, 0
    return count_lines(run.warmup_log), -(-recipe.sft.examples // recipe.sft.batch)


def _train_steps(run: RunFolder, recipe: Recipe) -> tuple[int, int]:
    """Return the steps that are done in all rounds, and how many there are to be."""
    done = sum(count_lines(each.metrics) for each in run.rounds_begun)
    return done, recipe.train.steps * recipe.rounds


def _attempts(recipe: Recipe) -> int:
    return recipe.collect.problems * recipe.collect.attempts


def _collected(run: RunFolder) -> int:
    """Return how many attempts were made; a line counts those of a whole chunk of problems."""
    return sum(row.get("attempts", 0) for row in newest_rows(run.newest_round.collected, None))


def newest_rows(path: Path, count: int | None) -> list[dict[str, Any]]:
    """Return the newest records of a file in order, all of them for None.

    Raises:
        MulliganError: a line is not a record.
    """
    rows: list[dict[str, Any]] = []
    for _, line in lines_backwards(path):
        if count is not None and len(rows) >= count:
            break
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise MulliganError(f"{path} holds a line that is not a record: {error}.") from error
        if not isinstance(row, dict):
            raise MulliganError(f"{path} holds a line that is not a record.")
        rows.append(row)
    return rows[::-1]


def _seconds_left(run: RunFolder, progress: Progress | None) -> float | None:
    """Return how long the rest of a training takes at the pace of its newest steps."""
    if progress is None or progress.stage != "train":
        return None
    rows = newest_rows(run.newest_round.timings, _RECENT_STEPS)
    paces = [row["rollout"] + row["update"] for row in rows if {"rollout", "update"} <= {*row}]
    return median(paces) * (progress.total - progress.done) if paces else None


def _headline(run: RunFolder) -> Difference | None:
    if not (run.evaluation("before").exists() and run.evaluation("after").exists()):
        return None
    trials = read_trials(run.path)
    found = (difference_of(trials, name) for name in HEADLINES)
    return next((difference for difference in found if difference is not None), None)


def progress_text(status: RunStatus) -> str:
    """Return ``train 12/40 steps``, or ``done``."""
    if status.progress is None:
        return "" if status.state == "unreadable" else "done"
    part = status.progress
    return f"{part.stage} {part.done:,}/{part.total:,} {part.unit}"


def time_text(seconds: float | None) -> str:
    """Return ``2:05`` or ``1:02:05``, or a dash where nothing is known."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def headline_text(status: RunStatus) -> str:
    """Return ``+4.8 [+1.0 to +8.5] what reflecting adds ...``, or a dash."""
    row = status.headline
    if row is None:
        return "–"
    interval = f"[{points(row.low)} to {points(row.high)}]"
    return f"{points(row.difference)} {interval} {HEADLINES[row.name]}"
