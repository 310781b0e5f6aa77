"""Failures from production, out of logs into a store."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from mulligan.episodes.reported import Reported, Store, open_reported
from mulligan.errors import MulliganError
from mulligan.serving.logs import Logged, read_lines, read_logged
from mulligan.serving.redact import Redactor
from mulligan.storage.lock import hold
from mulligan.tasks.base import Task
from mulligan.types import Problem, Verdict
from mulligan.verifiers.pool import Verifier

AT_ONCE = 256
"""Rows that are read and verified together."""


@dataclass
class Imported:
    """What became of the rows of a log."""

    rows: int = 0
    stored: int = 0
    passed: int = 0
    """Passed when verified again, and were left out."""
    unverified: int = 0
    """Could not be judged, and were stored apart."""
    repeated: int = 0
    """Were in the store before."""
    redacted: int = 0
    """Held a secret, which was taken out."""
    unreadable: list[str] = field(default_factory=list)
    """One line for each row that cannot be read, which names it by its number."""


def import_logs(
    task: Task,
    verifier: Verifier,
    logs: Path,
    folder: Path,
    redactor: Redactor,
    progress: Callable[[int], None],
) -> Imported:
    """Verify the answers of a log again, and store those that fail.

    The same log may be imported again: what is stored is not stored twice. ``progress`` is told how
    many rows were read so far.

    Raises:
        MulliganError: the log cannot be read at all, or another process holds the store.
    """
    done = Imported()
    store = Store(folder)
    with ExitStack() as stack:
        lines = read_lines(logs)
        first = next(lines, None)
        if first is None:
            raise MulliganError(f"{logs} is empty: it should hold one JSON object per line.")
        stack.enter_context(hold(folder))
        failures = stack.enter_context(open_reported(store.failures))
        unverified = stack.enter_context(open_reported(store.unverified))
        rows = _rows(task, lines, first, logs.name, done)
        while chunk := list(islice(rows, AT_ONCE)):
            for record, verdict in _judged(verifier, chunk, redactor, done):
                if verdict.passed:
                    done.passed += 1
                elif not (failures if verdict.status != "error" else unverified).append(record):
                    done.repeated += 1
                elif verdict.status == "error":
                    done.unverified += 1
                else:
                    done.stored += 1
            failures.sync()
            unverified.sync()
            progress(done.rows)
    if len(done.unreadable) == done.rows:
        raise MulliganError(
            f"None of the {done.rows} rows of {logs} can be read. The first: {done.unreadable[0]}."
        )
    return done


def _rows(
    task: Task,
    lines: Iterator[tuple[int, bytes | None]],
    first: tuple[int, bytes | None],
    name: str,
    done: Imported,
) -> Iterator[tuple[str, Logged]]:
    """Yield the rows that can be read, with where they are; count and name the others."""
    line: tuple[int, bytes | None] | None = first
    while line is not None:
        where = f"{name}, line {line[0]}"
        done.rows += 1
        try:
            yield where, read_logged(task, line[1], where)
        except MulliganError as error:
            done.unreadable.append(str(error))
        line = next(lines, None)


def _judged(
    verifier: Verifier, chunk: list[tuple[str, Logged]], redactor: Redactor, done: Imported
) -> Iterator[tuple[Reported, Verdict]]:
    """Verify rows as they were logged, and return them without secrets."""
    verdicts = verifier.verify_many([(each.problem, each.answer) for _, each in chunk])
    records, changed = without_secrets(verifier, chunk, verdicts, redactor)
    done.redacted += changed
    yield from records


def without_secrets(
    verifier: Verifier,
    rows: Sequence[tuple[str, Logged]],
    verdicts: Sequence[Verdict],
    redactor: Redactor,
) -> tuple[list[tuple[Reported, Verdict]], int]:
    """Return judged answers as they may be stored, and how many of them held secrets.

    Those are judged again without them: a failure that is judged otherwise then is an error.
    """
    plain = [(_redacted(each.problem, redactor), redactor.text(each.answer)) for _, each in rows]
    changed = [
        number
        for number, ((_, each), kept) in enumerate(zip(rows, plain, strict=True))
        if (each.problem, each.answer) != kept
    ]
    final = list(verdicts)
    again = verifier.verify_many([plain[number] for number in changed])
    for number, verdict in zip(changed, again, strict=True):
        before = verdicts[number]
        said = f"{before.status} before secrets were taken out, {verdict.status} after"
        same = before.passed or before.status == verdict.status
        final[number] = before if same else Verdict.error(said, reason="redacted")
    records = []
    for (where, each), (problem, answer), verdict in zip(rows, plain, final, strict=True):
        clean = replace(verdict, detail=redactor.text(verdict.detail))
        records.append((Reported.of(problem, answer, clean, model=each.model, source=where), clean))
    return records, len(changed)


def _redacted(problem: Problem, redactor: Redactor) -> Problem:
    """Return a problem without secrets, under the id of what is left."""
    content = [list(problem.messages), problem.given, problem.reference, list(problem.tools)]
    clean = redactor.value(content)
    return problem if clean == content else replace(Problem.create(*clean), task=problem.task)
