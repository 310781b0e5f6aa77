"""A file of problems, answered: resumable, and the same whether or not it was cut off."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mulligan.errors import MulliganError
from mulligan.randomness import derive_seed
from mulligan.serving.mulligan import Mulligan
from mulligan.serving.second_chance import Kind, Solution
from mulligan.storage.lock import hold_file
from mulligan.storage.records import RecordLog
from mulligan.types import Problem, Verdict


@dataclass(frozen=True, slots=True)
class Step:
    """What was said at one point on the way to an answer."""

    kind: Kind
    text: str
    tokens: int
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class Answered:
    """A line of the answers."""

    row: int
    """The problem's place in its file, from 1."""
    problem_id: str
    answer: str
    """Of the last try."""
    verdict: Verdict
    tries: int
    tokens: int
    """Generated in all, reflections included."""
    steps: tuple[Step, ...]
    made_with: str
    """Hash of everything that answers depend on besides the problem."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of the problems of a file."""

    problems: int
    first_try: int
    """Solved at the first try."""
    later: int
    """Solved after a reflection."""
    wrong: int
    unreadable: int
    unverified: int
    tokens: int


def solve_file(
    mulligan: Mulligan,
    problems: Sequence[Problem],
    out: Path,
    *,
    at_once: int,
    progress: Callable[[int], None],
) -> Tally:
    """Answer problems into a file, chunk by chunk; those that are in it already are left alone.

    A chunk that was cut off is answered again and draws the same.

    Raises:
        MulliganError: the file holds answers to other problems, or made in another way; or another
            process writes to it.
    """
    made_with = _made_with(mulligan, at_once)
    with hold_file(out), RecordLog(out, Answered, lambda line: str(line.row)) as log:
        for line in log:
            _refuse_other(line, problems, made_with, out)
        for begin in range(0, len(problems), at_once):
            chunk = problems[begin : begin + at_once]
            if str(begin + len(chunk)) not in log:
                mulligan.method.engine.reset_cache()
                seed = derive_seed(mulligan.method.writing.seed, "solve", begin)
                for place, solution in enumerate(mulligan.answer_all(chunk, seed=seed)):
                    log.append(_answered(begin + place + 1, solution, made_with))
                log.sync()
            progress(len(chunk))
        return tally(log)


def tally(lines: Iterable[Answered]) -> Tally:
    """Count what became of the problems."""
    counts: Counter[str] = Counter()
    for line in lines:
        counts["problems"] += 1
        counts["tokens"] += line.tokens
        counts[line.verdict.status] += 1
        counts["first_try"] += line.verdict.passed and line.tries == 1
    return Tally(
        problems=counts["problems"],
        first_try=counts["first_try"],
        later=counts["passed"] - counts["first_try"],
        wrong=counts["failed"],
        unreadable=counts["unparseable"],
        unverified=counts["error"],
        tokens=counts["tokens"],
    )


def _answered(row: int, solution: Solution, made_with: str) -> Answered:
    return Answered(
        row=row,
        problem_id=solution.problem.id,
        answer=solution.answer,
        verdict=solution.verdict,
        tries=solution.tries,
        tokens=solution.tokens,
        steps=tuple(
            Step(event.kind, event.completion.text, event.completion.length, event.verdict)
            for event in solution.events
        ),
        made_with=made_with,
    )


def _made_with(mulligan: Mulligan, at_once: int) -> str:
    method, source = mulligan.method, mulligan.task.source
    content = [
        mulligan.model,
        mulligan.weights,
        asdict(source) if source else mulligan.task.name,
        asdict(method.writing),
        asdict(method.thinking),
        method.tries,
        mulligan.prompts.model_dump(),
        at_once,
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _refuse_other(line: Answered, problems: Sequence[Problem], made_with: str, out: Path) -> None:
    if line.row > len(problems) or problems[line.row - 1].id != line.problem_id:
        other = "answers to other problems"
    elif line.made_with != made_with:
        other = "answers of another model, task, seed, number of tries or length"
    else:
        return
    raise MulliganError(
        f"{out} holds {other} (row {line.row}). Go on with what it was begun with, or name "
        "another file by --out."
    )
