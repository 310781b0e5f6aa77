"""The one thread that answers: what waits together is answered together.

An engine and a verifier serve one caller at a time, so requests queue for this thread. A failure is
in the store before its request is answered: a process that is killed loses no acknowledged record.
"""

import logging
import queue
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from mulligan.episodes.reported import Store, open_reported
from mulligan.randomness import derive_seed
from mulligan.serving.chat_protocol import is_verifiable
from mulligan.serving.import_logs import without_secrets
from mulligan.serving.logs import Logged
from mulligan.serving.mulligan import Mulligan
from mulligan.serving.redact import Redactor
from mulligan.serving.second_chance import Event, Method, Solution, steps
from mulligan.storage.lock import hold
from mulligan.types import Problem, Verdict

logger = logging.getLogger("mulligan")

AT_ONCE = 64
"""Most requests that are answered together."""


@dataclass(frozen=True, slots=True)
class Served:
    """An answer, and the id of its stored failure where its first try failed."""

    solution: Solution
    failure_id: str | None
    weights: int
    """Which model answered: 1 is the one that the worker began with, 2 the next, and so on."""


@dataclass(eq=False, slots=True)
class Job:
    """A request that waits."""

    problem: Problem
    temperature: float
    max_tokens: int
    seed: int | None
    """None draws with whatever else waits; a seed of its own is drawn from alone."""
    done: Future[Served] = field(default_factory=Future)


@dataclass(eq=False, slots=True)
class Replacement:
    """Another model, which answers what comes after it."""

    mulligan: Mulligan
    done: Future[int] = field(default_factory=Future)
    """Its number, once it answers."""


class Worker:
    """Answers jobs in a thread of its own; use as a context manager.

    Args:
        mulligan: answers; closed at the end, or when it is replaced.
        folder: the store of failures.
        redactor: takes secrets out of what is stored.
    """

    def __init__(self, mulligan: Mulligan, folder: Path, redactor: Redactor) -> None:
        self.mulligan = mulligan
        self._store = Store(folder)
        self._redactor = redactor
        self._waiting: queue.SimpleQueue[Job | Replacement | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="mulligan", daemon=True)
        self._batches = 0
        self._weights = 1
        self._stack = ExitStack()

    def __enter__(self) -> "Worker":
        with ExitStack() as stack:
            stack.callback(self._close)
            stack.enter_context(hold(self._store.path))
            self._failures = stack.enter_context(open_reported(self._store.failures))
            self._unverified = stack.enter_context(open_reported(self._store.unverified))
            self._stack = stack.pop_all()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._waiting.put(None)
        self._thread.join()
        self._stack.close()

    def _close(self) -> None:
        self.mulligan.close()  # whichever answers by then

    def submit(self, job: Job) -> Future[Served]:
        """Let a job wait for its turn; a job whose future is cancelled before is left out."""
        self._waiting.put(job)
        return job.done

    def replace(self, mulligan: Mulligan) -> Future[int]:
        """Let another model answer what is submitted from now on; no job is lost.

        Returns:
            The new model's number, once it answers and the one before is closed.
        """
        replacement = Replacement(mulligan)
        self._waiting.put(replacement)
        return replacement.done

    def _run(self) -> None:
        while True:
            waiting = [self._waiting.get()]
            while len(waiting) < AT_ONCE and not self._waiting.empty():
                waiting.append(self._waiting.get())
            jobs: list[Job] = []
            for each in waiting:
                if isinstance(each, Job):
                    jobs.append(each)
                    continue
                self._answer_together(jobs)
                jobs = []
                if each is None:
                    return
                self._take(each)
            self._answer_together(jobs)

    def _take(self, new: Replacement) -> None:
        if not new.done.set_running_or_notify_cancel():
            new.mulligan.close()
            return
        before, self.mulligan = self.mulligan, new.mulligan
        self._weights += 1
        try:
            before.close()
        except Exception:
            logger.exception("The model that was replaced could not be closed.")
        new.done.set_result(self._weights)

    def _answer_together(self, jobs: Sequence[Job]) -> None:
        """Answer jobs that waited, those that draw alike together."""
        groups: dict[object, list[Job]] = {}
        for job in jobs:
            if job.done.set_running_or_notify_cancel():
                alike = (job.temperature, job.max_tokens)
                groups.setdefault(alike if job.seed is None else job, []).append(job)
        for group in groups.values():
            self._answer(group)

    def _answer(self, jobs: Sequence[Job]) -> None:
        """Answer jobs that draw alike; where that breaks, each alone: one harms no other."""
        events: list[list[Event]] = [[] for _ in jobs]
        try:
            for happened in steps(self._method(jobs[0]), [job.problem for job in jobs]):
                for place, event in happened.items():
                    events[place].append(event)
            solutions = [
                Solution(job.problem, tuple(each)) for job, each in zip(jobs, events, strict=True)
            ]
            ids = self._record(solutions)
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].done.set_exception(error)
                return
            for job in jobs:
                self._answer([job])
            return
        for job, solution, key in zip(jobs, solutions, ids, strict=True):
            job.done.set_result(Served(solution, key, self._weights))

    def _method(self, job: Job) -> Method:
        self._batches += 1
        method = self.mulligan.method
        seed = job.seed
        if seed is None:
            seed = derive_seed(method.writing.seed, "serve", self._batches)
        return replace(
            method,
            verify=self._verify,
            writing=replace(
                method.writing, temperature=job.temperature, max_tokens=job.max_tokens, seed=seed
            ),
            thinking=replace(method.thinking, temperature=job.temperature, seed=seed),
        )

    def _verify(self, pairs: Sequence[tuple[Problem, str]]) -> list[Verdict]:
        """Judge what can be judged; there is nothing to judge the others with."""
        judged = iter(self.mulligan.method.verify([p for p in pairs if is_verifiable(p[0])]))
        unknown = Verdict.error("the request names nothing to verify", reason="not_verifiable")
        return [next(judged) if is_verifiable(problem) else unknown for problem, _ in pairs]

    def _record(self, solutions: Sequence[Solution]) -> list[str | None]:
        """Store the first tries that failed or could not be verified; return the ids."""
        firsts = [each.events[0] for each in solutions]
        verdicts = [first.verdict for first in firsts if first.verdict is not None]
        kept = [
            number
            for number, (solution, verdict) in enumerate(zip(solutions, verdicts, strict=True))
            if is_verifiable(solution.problem)
            and not verdict.passed
            and verdict.reason != "too_long"
        ]
        rows = [
            ("serve", Logged(solutions[n].problem, firsts[n].completion.text, self.mulligan.model))
            for n in kept
        ]
        records, _ = without_secrets(
            self.mulligan.verifier, rows, [verdicts[n] for n in kept], self._redactor
        )
        ids: list[str | None] = [None] * len(solutions)
        for number, (record, verdict) in zip(kept, records, strict=True):
            (self._unverified if verdict.status == "error" else self._failures).append(record)
            ids[number] = record.id
        return ids
