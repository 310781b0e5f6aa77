"""Doing the jobs of a study, one after another or in several processes, and saying how far it is.

With several processes each computes with one thread: small models gain little from more, and the
processes do not get in each other's way.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from statistics import fmean

from rich.console import Console

from mulligan.errors import MulliganError
from mulligan.interrupt import StoppedEarly, StopRequest
from mulligan.study.jobs import Job, StudyFolder, do_job, drop_weights, is_done, jobs_to_do

_POLL = 0.5
"""Seconds between looks at whether a stop was asked for."""


@dataclass
class Progress:
    """How far a study is, and how long the rest takes."""

    console: Console
    total: int
    """Runs of the study."""
    done: int
    """Runs that are finished."""
    at_once: int
    waiting: list[Job]
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """How long the jobs took that this process saw, by stage."""

    def started(self, job: Job) -> None:
        """Say that a job starts."""
        self.console.print(f"{job.says}: started", highlight=False)

    def ended(self, job: Job, seconds: float, failure: str | None) -> None:
        """Say that a job ended, and how long the rest takes."""
        self.waiting = [each for each in self.waiting if each.id != job.id]
        if failure is None:
            self.seconds.setdefault(job.stage, []).append(seconds)
            self.done += job.run is not None
        what = f"failed: {failure}" if failure else f"done in {duration(seconds)}"
        self.console.print(f"{job.says}: {what}", highlight=False, markup=False)
        self.console.print(
            f"  {self.done} of {self.total} runs done; {self.left()}", highlight=False
        )

    def left(self) -> str:
        """Say how long the rest takes, as far as that is known."""
        known = {stage: fmean(took) for stage, took in self.seconds.items()}
        if not self.waiting:
            return "nothing left to run"
        if unknown := {job.stage for job in self.waiting} - known.keys():
            return f"time left not known before the first {sorted(unknown)[0]} is done"
        rest = sum(known[job.stage] for job in self.waiting) / self.at_once
        return f"about {duration(rest)} left"


def duration(seconds: float) -> str:
    """Return a time as a person says it: ``40 s``, ``4.6 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def run_jobs(
    jobs: Sequence[Job],
    folder: StudyFolder,
    *,
    at_once: int,
    keep_weights: bool | Sequence[str],
    console: Console,
    stop: StopRequest,
) -> Mapping[str, str]:
    """Do every job that is left; return what went wrong, by job.

    A job that fails takes those that need it with it; the others go on.

    Raises:
        StoppedEarly: asked to stop; everything is saved.
    """
    left = jobs_to_do(jobs, folder)
    runs = [job for job in jobs if job.run]
    finished = sum(is_done(job, folder) for job in runs)
    progress = Progress(console, len(runs), finished, at_once, list(left))
    failures: dict[str, str] = {}
    crew = _Processes(folder, at_once) if at_once > 1 else _InProcess(folder, stop)
    with crew.working():
        while left or crew.busy:
            for job in _ready(left, crew.busy, folder, failures):
                if len(crew.busy) < at_once:
                    left.remove(job)
                    progress.started(job)
                    crew.start(job)
            left = _without_hopeless(left, failures, progress)
            for job, seconds, failure in crew.ended():
                if failure is not None:
                    failures[job.id] = failure
                progress.ended(job, seconds, failure)
                if keep_weights is not True:
                    drop_weights(jobs, folder, keep_weights or ())
            stop.check(f"{progress.done} of {progress.total} runs done")
    return failures


def _ready(
    left: Sequence[Job], busy: Mapping[str, Job], folder: StudyFolder, failures: Mapping[str, str]
) -> list[Job]:
    """Return the jobs whose needs are met, in order."""
    open_jobs = {job.id for job in left} | set(busy) | set(failures)
    return [job for job in left if not open_jobs & set(job.needs)]


def _without_hopeless(
    left: Sequence[Job], failures: dict[str, str], progress: Progress
) -> list[Job]:
    """Fail the jobs that need one that failed; return the others."""
    kept = []
    for job in left:
        broken = next((needed for needed in job.needs if needed in failures), None)
        if broken is None:
            kept.append(job)
        else:
            failures[job.id] = failures[broken]
            progress.ended(job, 0.0, failures[broken])
    return kept


class _InProcess:
    """Does one job at a time, in this process."""

    def __init__(self, folder: StudyFolder, stop: StopRequest) -> None:
        self.busy: dict[str, Job] = {}
        self._folder = folder
        self._stop = stop

    @contextmanager
    def working(self) -> Iterator[None]:
        """Nothing has to be cleaned up."""
        yield

    def start(self, job: Job) -> None:
        """Take a job on; it is done when the end of jobs is asked for."""
        self.busy[job.id] = job

    def ended(self) -> Iterator[tuple[Job, float, str | None]]:
        """Do the jobs that were taken on."""
        for job in list(self.busy.values()):
            started = time.monotonic()
            failure = _attempt(job, self._folder, self._stop)
            del self.busy[job.id]
            yield job, time.monotonic() - started, failure


class _Processes:
    """Does several jobs at once, each in a process of its own that may die without harm."""

    def __init__(self, folder: StudyFolder, at_once: int) -> None:
        self.busy: dict[str, Job] = {}
        self._folder = folder
        self._at_once = at_once
        self._processes: dict[str, tuple[SpawnProcess, Connection, float]] = {}

    @contextmanager
    def working(self) -> Iterator[None]:
        """Stop the processes that are left at the end, however it comes."""
        try:
            yield
        finally:
            for process, _, _ in self._processes.values():
                process.terminate()
            for process, _, _ in self._processes.values():
                process.join()

    def start(self, job: Job) -> None:
        """Start a process for a job."""
        context = get_context("spawn")
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(job, self._folder, sender), daemon=False)
        with _one_thread():
            process.start()
        sender.close()
        self.busy[job.id] = job
        self._processes[job.id] = (process, receiver, time.monotonic())

    def ended(self) -> Iterator[tuple[Job, float, str | None]]:
        """Wait a moment for processes to end, and say what became of their jobs."""
        wait([process.sentinel for process, _, _ in self._processes.values()], timeout=_POLL)
        for key, (process, receiver, started) in list(self._processes.items()):
            if process.is_alive():
                continue
            process.join()
            del self._processes[key]
            yield self.busy.pop(key), time.monotonic() - started, _outcome(process, receiver)


def _outcome(process: SpawnProcess, receiver: Connection) -> str | None:
    """Return what went wrong in a process that has ended."""
    with receiver:
        if receiver.poll():
            try:
                failure: str | None = receiver.recv_bytes().decode() or None
            except EOFError:
                pass
            else:
                return failure
    return (
        f"its process ended with exit status {process.exitcode}, for example because memory ran out"
    )


def _attempt(job: Job, folder: StudyFolder, stop: StopRequest) -> str | None:
    """Do a job with its output in a file; return what went wrong."""
    path = folder.log(job)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file, redirect_stderr(file):
        console = Console(file=file, width=110)
        try:
            do_job(job, folder, console, stop)
        except (StoppedEarly, KeyboardInterrupt):
            raise
        except MulliganError as error:
            return str(error)
        except Exception as error:
            console.print_exception()
            return f"{type(error).__name__}: {error} (see {path})"
    return None


@contextmanager
def _one_thread() -> Iterator[None]:
    """Make processes that start in the block compute with one thread each: torch reads these."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _work(job: Job, folder: StudyFolder, sender: Connection) -> None:
    """Do a job in a process of its own: told to stop by SIGTERM, not by the terminal's Ctrl-C."""
    os.setsid()
    threading.Thread(target=_die_with_parent, daemon=True).start()
    stop = StopRequest()
    with _output_to(folder.log(job)), stop.listening(Console(file=sys.stderr)):
        try:
            failure = _attempt(job, folder, stop)
        except (StoppedEarly, KeyboardInterrupt):
            sys.exit(128 + signal.SIGTERM)
    sender.send_bytes((failure or "").encode("utf-8", "replace"))


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send whatever the process and its libraries print to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    yield


def _die_with_parent() -> None:
    """End this process when the one that started it is gone: nobody would tell it to stop."""
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGKILL)
