"""The work of a study: shared stages, then what each run does alone, each done once.

A job is done in a folder of its own, which is an ordinary run folder, and takes what the jobs
before it left in theirs. A kill at any moment leaves folders that the stages go on from.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from mulligan.config import Recipe
from mulligan.interrupt import StopRequest
from mulligan.run.session import Session, open_session, refuse_changed_settings, stages_done
from mulligan.run.stages import run_stages
from mulligan.run.trained import checkpoints_of, writes_model
from mulligan.storage.atomic import remove_folder, whole_folder, write_atomically
from mulligan.storage.run_folder import RunFolder
from mulligan.study.plan import SHARED, Plan, PlannedRun
from mulligan.study.result import ResultsFolder

ALONE = ("evaluate-after", "report")
"""What every run does for itself: stages that nobody shares."""


@dataclass(frozen=True, slots=True)
class Job:
    """A piece of work that one process does at a time."""

    id: str
    """Name of its folder, below the study's."""
    stage: str
    """A shared stage, or ``run``."""
    says: str
    """What it is, for a person."""
    recipe: Recipe
    needs: tuple[str, ...]
    """Jobs whose folders it takes from."""
    run: PlannedRun | None = None
    """The run that it ends, for a job that is not a shared stage."""


@dataclass(frozen=True)
class StudyFolder:
    """The folder of a study, and the name of each thing in it."""

    path: Path

    @property
    def declared(self) -> Path:
        """The study as it was declared when it started."""
        return self.path / "study.json"

    @property
    def results(self) -> ResultsFolder:
        """The small files of finished runs."""
        return ResultsFolder(self.path / "results")

    @property
    def table(self) -> Path:
        """The study's table, as JSON."""
        return self.path / "table.json"

    @property
    def page(self) -> Path:
        """The page that a person reads."""
        return self.path / "study.html"

    def of(self, job: str) -> RunFolder:
        """Return the run folder of a job."""
        return RunFolder(self.path / job)

    def log(self, job: Job) -> Path:
        """Return the file that a job's output goes to."""
        return self.path / "logs" / f"{job.id.replace('/', '-')}.txt"


def jobs_of(plan: Plan) -> list[Job]:
    """Return every job of a study in an order in which each comes after those that it needs.

    The base arm comes first with all its seeds: it is what the others are compared with, and what
    an acceptance needs.
    """
    jobs: dict[str, Job] = {}
    collects: dict[str, Recipe] = {}
    for run in sorted(plan.runs, key=lambda each: each.recipe.train.failures_per_step):
        collects.setdefault(run.shared["collect"], run.recipe)
    for run in sorted(plan.runs, key=lambda each: each.arm != plan.study.base):
        for job in _jobs_of_run(run, collects[run.shared["collect"]]):
            jobs.setdefault(job.id, job)
    return list(jobs.values())


def _jobs_of_run(run: PlannedRun, collect: Recipe) -> Iterator[Job]:
    """Yield a run's jobs; failures are collected by the recipe that needs the fewest of them.

    So an arm that needs more than there are fails alone, when its training starts.
    """
    ids = {stage: f"shared/{stage}-{run.shared[stage]}" for stage in SHARED}
    needs = {"warmup": (), "collect": ("warmup",), "evaluate-before": ("warmup",)}
    for stage in SHARED:
        needed = tuple(ids[each] for each in needs.get(stage, ("warmup", "collect")))
        recipe = collect if stage == "collect" else run.recipe
        yield Job(ids[stage], stage, f"{stage}, {run.arm}, seed {run.seed}", recipe, needed)
    says = f"{run.arm}, seed {run.seed}"
    yield Job(f"runs/{run.id}", "run", says, run.recipe, tuple(ids.values()), run)


def do_job(job: Job, folder: StudyFolder, console: Console, stop: StopRequest) -> None:
    """Do a job, or go on with it; where it ends a run, keep its result.

    Raises:
        MulliganError: whatever stops a run.
        StoppedEarly: asked to stop; everything is saved.
    """
    run = folder.of(job.id)
    if run.config.exists():
        refuse_changed_settings(run, job.recipe)
    with open_session(job.recipe, run, console, stop) as session:
        for needed in job.needs:
            _take(session, folder.of(needed))
        run_stages(session, ALONE if job.run else [job.stage])
    if job.run:
        folder.results.keep(job.run, run)


def is_done(job: Job, folder: StudyFolder) -> bool:
    """Whether a job has nothing left to do."""
    if job.run:
        return folder.results.has(job.run)
    return job.stage in stages_done(folder.of(job.id))


def jobs_to_do(jobs: Sequence[Job], folder: StudyFolder) -> list[Job]:
    """Return the jobs that are left: runs without a result, and what they need."""
    runs = [job for job in jobs if job.run and not is_done(job, folder)]
    wanted = {needed for job in runs for needed in job.needs} | {job.id for job in runs}
    return [job for job in jobs if job.id in wanted and not is_done(job, folder)]


def drop_weights(jobs: Sequence[Job], folder: StudyFolder, kept: Sequence[str] = ()) -> None:
    """Delete the weights that no run will need again, where there still are any.

    Of the arms that are to be ``kept``, each finished run keeps the model that it started from and
    the one that it trained.
    """
    left = {needed for job in jobs_to_do(jobs, folder) for needed in (job.id, *job.needs)}
    for job in jobs:
        run = folder.of(job.id)
        if job.id in left:
            continue
        if job.run and job.run.arm in kept:
            _keep_two_models(run, job.recipe)
        else:
            remove_folder(run.warmed_up)
            for each in run.rounds_begun:
                remove_folder(each.checkpoints)
                remove_folder(each.model)


def _keep_two_models(run: RunFolder, recipe: Recipe) -> None:
    """Leave the model that a finished run started from, and the one that it trained."""
    *earlier, last = run.rounds_begun
    for each in earlier:
        remove_folder(each.checkpoints)
        remove_folder(each.model)
    if writes_model(recipe):
        remove_folder(last.checkpoints)
    else:
        checkpoints_of(last, recipe).keep_best_model()


def _take(session: Session, source: RunFolder) -> None:
    """Take what the stages of another folder left, unless it was taken before."""
    for stage in stages_done(source):
        if stage in SHARED and not session.is_done(stage):
            for name in _left_by(stage):
                _copy(source.path / name, session.run.path / name)
            session.mark_done(stage)


def _left_by(stage: str) -> tuple[str, ...]:
    """Return the names of the files and folders that a shared stage leaves."""
    run = RunFolder(Path())
    left = {
        "warmup": (run.warmed_up, run.warmup_log),
        "collect": (run.failures, run.collected, run.rounds),
        "evaluate-before": (run.evaluation("before"),),
        "train": (
            run.checkpoints,
            run.metrics,
            run.timings,
            run.episodes,
            run.failures,
            run.collected,
            run.dev,
            run.store_drift,
            run.rounds,
            run.round_trials,
            run.model,
            run.found,
            run.searched,
            run.consolidation,
        ),
    }
    return tuple(map(str, left[stage]))


def _copy(source: Path, target: Path) -> None:
    """Copy a file, or link the files of a folder: weights are large, and never written again."""
    if source.is_dir():
        remove_folder(target)
        with whole_folder(target) as partial:
            for file in sorted(path for path in source.rglob("*") if path.is_file()):
                place = partial / file.relative_to(source)
                place.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(file, place)
                except OSError:  # another file system, or one without links
                    shutil.copy2(file, place)
    elif source.exists():
        write_atomically(target, source.read_bytes())
