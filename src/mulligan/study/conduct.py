"""A study from its file to its table: checked, run as far as it is not yet, and summed up."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from mulligan.errors import MulliganError
from mulligan.interrupt import StopRequest, waiting
from mulligan.storage.atomic import write_atomically
from mulligan.storage.lock import hold
from mulligan.study.jobs import StudyFolder, jobs_of
from mulligan.study.page import write_page
from mulligan.study.plan import Plan, plan
from mulligan.study.result import Result, refuse_changed_folder
from mulligan.study.schedule import run_jobs
from mulligan.study.show import detectable, table_as_json
from mulligan.study.table import StudyTable, compute
from mulligan.tasks.base import Split
from mulligan.tasks.registry import load_task
from mulligan.tasks.splits import first_problems


@dataclass(frozen=True, slots=True)
class Conducted:
    """A study as far as it got."""

    plan: Plan
    folder: StudyFolder
    table: StudyTable
    results: Mapping[str, Result]
    """The finished runs, by id."""


def conduct(path: Path, runs: Path, at_once: int, console: Console, stop: StopRequest) -> Conducted:
    """Run what is left of a study, and compute its table from every run that is finished.

    Args:
        path: the study's file.
        runs: where the study's folder is, or is made.
        at_once: how many processes work.
        console: told how far it is.
        stop: asked between jobs, and within them, whether to stop.

    Raises:
        MulliganError: whatever is wrong with the study, before any work; no run is finished; or a
            finished run was changed by hand.
        StoppedEarly: asked to stop; everything is saved.
    """
    design = plan(path)
    folder = StudyFolder(runs / design.name)
    with waiting("checking what will be run"):
        _check_runs(design)
    with hold(folder.path):
        _declare(design, folder)
        say_design(design, console)
        jobs = jobs_of(design)
        failures = run_jobs(
            jobs,
            folder,
            at_once=at_once,
            keep_weights=design.study.keep_weights,
            console=console,
            stop=stop,
        )
        by_run = {job.run.id: failures[job.id] for job in jobs if job.run and job.id in failures}
        return _sum_up(design, folder, by_run)


def recompute(path: Path, runs: Path) -> Conducted:
    """Compute a study's table from the finished runs that are there; nothing is run.

    Raises:
        MulliganError: whatever is wrong with the study, or no run is finished.
    """
    design = plan(path)
    return _sum_up(design, StudyFolder(runs / design.name), {})


def say_design(design: Plan, console: Console) -> None:
    """Say what will be run, what decides, and how small an effect can be seen."""
    study = design.study
    console.print(
        f"{design.name}: {len(study.arms)} arms by {len(design.seeds)} seeds, "
        f"{len(design.runs)} runs; seeds {', '.join(design.seeds)}",
        highlight=False,
    )
    declared = design.runs[0].recipe.evaluate.endpoints
    console.print(
        f"Primary endpoint: {declared.primary}; secondary: {', '.join(declared.secondary)}",
        highlight=False,
    )
    if design.crossed is None and len(design.seeds) > 1:
        for sentence in detectable(study.spread, len(design.seeds), study.level):
            console.print(sentence, highlight=False)


def _sum_up(design: Plan, folder: StudyFolder, failures: Mapping[str, str]) -> Conducted:
    finished = [run for run in design.runs if folder.results.has(run)]
    if not finished:
        reasons = "; ".join(dict.fromkeys(failures.values())) or "none was made yet"
        raise MulliganError(f"No run of {folder.path} is finished: {reasons}.")
    results = {run.id: folder.results.read(run) for run in finished}
    for run in finished:
        refuse_changed_folder(run, folder.of(f"runs/{run.id}"), results[run.id])
    with waiting("computing the table"):
        table = compute(design, results, failures, design.study.level)
        write_atomically(folder.table, json.dumps(table_as_json(table), indent=1) + "\n")
        write_page(table, folder.page)
    return Conducted(design, folder, table, results)


def _check_runs(design: Plan) -> None:
    """Check each run before any work: its objective, and that it has the problems it asks for."""
    from mulligan.objectives.objective import make_objective

    seen = set()
    for run in design.runs:
        recipe = run.recipe
        evaluate = recipe.evaluate
        wanted: list[tuple[Split, int]] = [
            ("train", recipe.training_problems),
            (evaluate.split, evaluate.problems),
        ]
        if recipe.looks_at_dev:
            wanted.append(("dev", evaluate.dev_problems))
        key = (recipe.task, repr(recipe.task_options), repr(recipe.train), repr(wanted))
        if key in seen:
            continue
        seen.add(key)
        try:
            make_objective(recipe)
            task = load_task(recipe.task, recipe.task_options)
            for split, count in wanted:
                first_problems(task, split, count)
        except MulliganError as error:
            raise MulliganError(f"Arm {run.arm!r}, seed {run.seed}: {error}") from error


def _declare(design: Plan, folder: StudyFolder) -> None:
    """Write down what the study is before its first run, or check that it is still the same.

    Raises:
        MulliganError: the study was started with another file.
    """
    declared: dict[str, Any] = {
        "study": design.study.model_dump(mode="json", exclude={"keep_weights", "about"}),
        "runs": {run.id: run.key for run in design.runs},
        "primary": design.runs[0].recipe.evaluate.endpoints.model_dump(mode="json"),
    }
    if not folder.declared.exists():
        write_atomically(folder.declared, json.dumps(declared, indent=1) + "\n")
        return
    before = json.loads(folder.declared.read_bytes())
    changed = sorted(name for name in declared if before.get(name) != declared[name])
    if changed:
        raise MulliganError(
            f"{folder.path} was started as another study: its {' and '.join(changed)} differ from "
            f"those of {design.path}. A study is declared before it runs and then stays as it is: "
            "give the changed one another name."
        )
