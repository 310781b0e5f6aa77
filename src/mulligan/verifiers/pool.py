"""Running a user's verifier where it can be killed: a pool of worker processes, and who is blamed.

A verifier that hangs, crashes, leaves, floods its output or allocates without end costs one
verdict ``error`` and one worker process, which is replaced. Requests are pipelined to the workers
and acknowledged one by one, so that a worker's end points at the one answer that caused it.

What a verifier starts is killed with its worker: both are in one session. Only a process that
moves to a session of its own escapes that.
"""

import selectors
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, Self

from mulligan.errors import MulliganError
from mulligan.tasks.base import Split, Task, TaskSource
from mulligan.tasks.user_file import explain
from mulligan.types import Problem, Verdict
from mulligan.verifiers.judging import judge
from mulligan.verifiers.limits import Limits, processes_by_session
from mulligan.verifiers.worker_handle import START_S, WorkerHandle, encode

MAX_AHEAD = 32
"""Most requests that wait in one worker's pipe."""

Pairs = Sequence[tuple[Problem, str]]
Triples = Sequence[tuple[Problem, str, str]]


class Verifier(Protocol):
    """Judges answers, in process or out of it; never raises because of a verifier."""

    def verify_many(self, pairs: Pairs) -> list[Verdict]:
        """Judge answers to problems; verdicts come in the order of the pairs."""
        ...

    def leaks_many(self, pairs: Pairs) -> list[bool | None]:
        """Whether each text contains a passing answer; ``None`` where the verifier broke."""
        ...

    def same_many(self, triples: Triples) -> list[bool | None]:
        """Whether two answers to a problem say the same; ``None`` where the task broke."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


def verifier_for(task: Task, workers: int = 2, limits: Limits | None = None) -> Verifier:
    """Return a verifier for a task, to be used as a context manager.

    Tasks that are safe by construction are verified in process, all others in worker processes.

    Args:
        task: Made by ``load_task``, unless it is safe.
        workers: Number of worker processes.
        limits: What a worker may use; whether that is the network, the task says.

    Raises:
        MulliganError: the task is not safe and was not made by ``load_task``.
    """
    if task.safe:
        return InProcessVerifier(task)
    if task.source is None:
        raise MulliganError(
            f"The verifier of {task.name!r} runs in worker processes, which load the task by "
            f"themselves: make it by mulligan.tasks.registry.load_task, not by hand. (Or mark the "
            f"class safe = True, if no answer can make its verifier hang or crash.)"
        )
    return IsolatedVerifier(task.source, workers, replace(limits or Limits(), network=task.network))


class InProcessVerifier:
    """Calls the task's verifier directly; an exception becomes a verdict ``error``."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def verify_many(self, pairs: Pairs) -> list[Verdict]:
        """Judge answers to problems; verdicts come in the order of the pairs."""
        return [judge(self.task, problem, answer) for problem, answer in pairs]

    def leaks_many(self, pairs: Pairs) -> list[bool | None]:
        """Whether each text contains a passing answer; ``None`` where the verifier broke."""
        return [self._leaks(problem, text) for problem, text in pairs]

    def same_many(self, triples: Triples) -> list[bool | None]:
        """Whether two answers to a problem say the same; ``None`` where the task broke."""
        return [self._same(*triple) for triple in triples]

    def _leaks(self, problem: Problem, text: str) -> bool | None:
        try:
            return bool(self.task.leaks(problem, text))
        except Exception:
            return None

    def _same(self, problem: Problem, one: str, other: str) -> bool | None:
        try:
            return self.task.same_answer(problem, one, other)
        except MulliganError:
            raise
        except Exception:
            return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass


class IsolatedVerifier:
    """Verifies in worker processes that load the task for themselves.

    Use it as a context manager; leaving it kills the workers and all that they started.

    Args:
        source: Where the workers find the task (``task.source``).
        workers: Number of worker processes.
        limits: What a worker may use.
    """

    def __init__(self, source: TaskSource, workers: int = 2, limits: Limits | None = None) -> None:
        if workers < 1:
            raise MulliganError(f"Verifying needs at least one worker, not workers={workers}.")
        self.source = source
        self.limits = limits or Limits()
        self._count = workers
        self._workers: list[WorkerHandle] = []

    def verify(self, problem: Problem, answer: str) -> Verdict:
        """Judge one answer."""
        return self.verify_many([(problem, answer)])[0]

    def verify_many(self, pairs: Pairs) -> list[Verdict]:
        """Judge answers to problems; verdicts come in the order of the pairs.

        Raises:
            MulliganError: a worker cannot load the task, or a problem is not plain JSON.
        """
        requests = self._requests("verify", pairs)
        return [
            Verdict.error(reply["error"]) if "error" in reply else Verdict(*reply["value"])
            for reply in self._exchange(requests, self.limits.deadline_s)
        ]

    def leaks_many(self, pairs: Pairs) -> list[bool | None]:
        """Whether each text contains a passing answer; ``None`` where the verifier broke."""
        requests = self._requests("leaks", pairs)
        return [reply.get("value") for reply in self._exchange(requests, self.limits.deadline_s)]

    def same_many(self, triples: Triples) -> list[bool | None]:
        """Whether two answers to a problem say the same; ``None`` where the task broke."""
        requests = [
            self._request(number, "same", problem, one, other)
            for number, (problem, one, other) in enumerate(triples)
        ]
        return [reply.get("value") for reply in self._exchange(requests, self.limits.deadline_s)]

    def problem_ids(self, split: Split, count: int) -> list[str]:
        """Return the first ids of a split as a worker process sees them.

        Raises:
            MulliganError: making the problems fails there.
        """
        request = encode({"n": 0, "do": "ids", "split": split, "count": count})
        reply = self._exchange([request], START_S)[0]
        if "error" in reply:
            raise MulliganError(str(reply["error"]))
        return list(reply["value"])

    def close(self) -> None:
        """Kill the workers and everything they started."""
        while self._workers:
            self._workers.pop().kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _requests(self, action: str, pairs: Pairs) -> list[bytes]:
        return [
            self._request(number, action, problem, text)
            for number, (problem, text) in enumerate(pairs)
        ]

    def _request(
        self, number: int, action: str, problem: Problem, text: str, other: str = ""
    ) -> bytes:
        sent = {
            "id": problem.id,
            "messages": problem.messages,
            "given": problem.given,
            "reference": problem.reference,
            "tools": problem.tools,
            "task": problem.task,
        }
        try:
            return encode(
                {"n": number, "do": action, "problem": sent, "text": text, "other": other}
            )
        except (TypeError, ValueError) as error:
            raise MulliganError(
                f"The problem {problem.id} of the task {self.source.spec!r} should hold plain JSON "
                f"values only: {explain(error)}."
            ) from error

    def _exchange(self, requests: Sequence[bytes], deadline_s: float) -> list[dict[str, Any]]:
        """Send requests to the workers and collect a reply for each, in order."""
        waiting = deque(range(len(requests)))
        replies: dict[int, dict[str, Any]] = {}
        try:
            while len(replies) < len(requests):
                self._start_missing(min(self._count, len(requests)))
                self._hand_out(waiting, requests)
                quiet = self._wait(deadline_s)
                sessions = processes_by_session() if quiet else {}
                for worker in list(self._workers):
                    worker.count(len(sessions.get(worker.process.pid, ())))
                    replies |= worker.listen(deadline_s)
                    if worker.trouble or worker.leaving:
                        replies |= self._remove(worker, waiting)
        except BaseException:
            # What is still in the pipes belongs to this call only.
            self.close()
            raise
        return [replies[index] for index in range(len(requests))]

    def _start_missing(self, wanted: int) -> None:
        """Start workers until there are enough, in place of those that ended while idle, too."""
        for worker in [worker for worker in self._workers if worker.lost_while_idle]:
            self._workers.remove(worker)
            worker.kill()
        while len(self._workers) < wanted:
            self._workers.append(WorkerHandle(self.source, self.limits))

    def _hand_out(self, waiting: deque[int], requests: Sequence[bytes]) -> None:
        """Give each worker its share of what waits: many at first, one by one at the end."""
        for worker in self._workers:
            share = max(1, min(MAX_AHEAD, len(waiting) // (2 * self._count)))
            while waiting and len(worker.in_flight) < share:
                index = waiting.popleft()
                worker.ask(index, requests[index])
            worker.push()

    def _wait(self, deadline_s: float) -> bool:
        """Sleep until a worker has something to say or takes more, or a deadline may be over.

        Returns:
            Whether nothing happened, so that what the workers do may be looked at.
        """
        with selectors.DefaultSelector() as selector:
            for worker in self._workers:
                if worker.closed:
                    continue  # it is ending, and would always be ready to be read
                selector.register(worker.replies, selectors.EVENT_READ)
                if worker.outgoing:
                    selector.register(worker.requests, selectors.EVENT_WRITE)
            return not selector.select(timeout=min(0.1, deadline_s / 10))

    def _remove(self, worker: WorkerHandle, waiting: deque[int]) -> dict[int, dict[str, Any]]:
        """Remove a lost worker; blame the request it worked on, and put the others back."""
        self._workers.remove(worker)
        worker.kill()
        blamed: dict[int, dict[str, Any]] = {}
        if worker.trouble and not worker.leaving and worker.in_flight:
            detail = f"{self.source.spec}: the verifier {worker.trouble}"
            blamed[worker.in_flight.popleft()] = {"error": detail}
        waiting.extendleft(reversed(worker.in_flight))
        return blamed
