"""Reads everything a report shows from a run's folder; what is missing stays empty."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mulligan.config import read_yaml, with_new_names
from mulligan.errors import MulliganError
from mulligan.evaluation.dev_curve import DevPoint, read_dev
from mulligan.evaluation.forgetting.records import Forgetting, read_forgetting
from mulligan.evaluation.results import compute
from mulligan.evaluation.rounds import Round, read_rounds
from mulligan.evaluation.store_drift import StoreDrift, read_store_drift
from mulligan.evaluation.tables import Table
from mulligan.evaluation.trials import Trials, plan_of, read_trials
from mulligan.report.trained import TrainedGroup, choose_groups
from mulligan.storage.lines import count_lines
from mulligan.storage.records import RecordLog
from mulligan.storage.run_folder import RunFolder

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunContent:
    """What a run's folder holds."""

    name: str
    """Name of the folder."""
    settings: Mapping[str, Any]
    """``config.yaml``: the recipe as resolved, and what it was made with."""
    warmup: Sequence[Row]
    """One row per step of the warm-up; empty without one."""
    metrics: Sequence[Row]
    """One row per step of training; empty before it."""
    timings: Sequence[Row]
    """One row per step: seconds of its parts."""
    dev: Sequence[DevPoint]
    """What was solved on dev while training; empty where nothing was evaluated there."""
    rounds: Sequence[Round]
    """What several rounds found; empty where there is one. What stands above is the newest's."""
    searched: Sequence[Row]
    """One row per chunk of problems that were searched for what to consolidate."""
    consolidation: Sequence[Row]
    """One row per step of the consolidation; empty without one."""
    store_drift: Sequence[StoreDrift]
    """How many stored failures the policy would pass, over training; empty without dev."""
    failures: int
    """How many failures are stored."""
    trials: Trials
    table: Table
    forgetting: Forgetting | None
    """What the model forgot; None until `mulligan forget` measured it."""
    groups: Sequence[TrainedGroup]
    """Groups from the start, the middle and the end of training."""


def read_run(run: Path) -> RunContent:
    """Read a run's folder.

    Raises:
        MulliganError: the folder is not a run's, or a file in it cannot be read.
    """
    folder = RunFolder(run)
    if not folder.config.is_file():
        raise MulliganError(
            f"{run} is not a run's folder: it holds no config.yaml. Give the folder that "
            "`mulligan run` wrote, such as runs/demo."
        )
    trials, newest = read_trials(run), folder.newest_round
    settings = read_yaml(folder.config)
    return RunContent(
        name=run.resolve().name,
        settings=with_new_names(read_yaml(folder.config), str(folder.config)),
        warmup=_rows(folder.warmup_log),
        metrics=_rows(newest.metrics),
        timings=_rows(newest.timings),
        dev=read_dev(newest.dev),
        rounds=read_rounds(folder),
        searched=_rows(newest.searched),
        consolidation=_rows(newest.consolidation),
        store_drift=read_store_drift(newest.store_drift),
        failures=count_lines(newest.failures),
        trials=trials,
        groups=choose_groups(newest),
        table=compute(trials, plan_of(settings.get("evaluate"))),
        forgetting=read_forgetting(folder.forgetting),
    )


def _rows(path: Path) -> Sequence[Row]:
    """Return the records of a file as plain JSON values; a row without a step is its own id."""
    with RecordLog(path, dict[str, Any], key=lambda row: str(row.get("step", row))) as log:
        return tuple(log)
