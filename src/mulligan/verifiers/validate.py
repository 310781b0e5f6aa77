"""Checking a task without a model: its problems, and its verifier in both directions."""

import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice
from typing import TYPE_CHECKING, Literal, get_args

from mulligan.errors import MulliganError
from mulligan.interrupt import waiting
from mulligan.tasks.base import Split, Task
from mulligan.tasks.user_file import explain
from mulligan.types import Problem, Verdict
from mulligan.verifiers.limits import Limits
from mulligan.verifiers.pool import IsolatedVerifier, Verifier, verifier_for

if TYPE_CHECKING:
    from rich.table import Table

Result = Literal["ok", "failed", "skipped"]

MALFORMED = ("", " \n\t", "?!", "\x00\x07\x1b[31m", "}{][", "(" * 5000, "I do not know.")
"""Answers that no task should let pass."""
TOLERATED = 0.5
"""Largest share of probably wrong answers that may pass: some are right by chance."""


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one check."""

    name: str
    result: Result
    """``skipped`` where there was nothing to check."""
    detail: str
    """What was looked at, or what is wrong."""
    problem: Problem | None = None
    """The offending problem, where one can be named."""


class _Broken(Exception):  # noqa: N818 (the outcome of a check, not an error of the program)
    """What a check found wrong."""

    def __init__(self, detail: str, problem: Problem | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.problem = problem


class _NothingToCheck(Exception):  # noqa: N818 (the same)
    pass


@dataclass(slots=True)
class _Bench:
    """What the checks share."""

    task: Task
    verifier: Verifier
    count: int
    problems: dict[Split, list[Problem]] = field(default_factory=dict)
    verdicts: list[tuple[Problem, str, Verdict]] = field(default_factory=list)
    """Everything judged so far, for the checks that look at all verdicts."""

    def all(self) -> list[Problem]:
        return [problem for split in self.problems for problem in self.problems[split]]

    def judge(self, pairs: Sequence[tuple[Problem, str]]) -> list[tuple[Problem, str, Verdict]]:
        """Verify answers; answers on which the verifier broke are left to their own check."""
        verdicts = self.verifier.verify_many(pairs)
        judged = [(*pair, verdict) for pair, verdict in zip(pairs, verdicts, strict=True)]
        self.verdicts += judged
        return [item for item in judged if item[2].status != "error"]


def validate_task(
    task: Task,
    count: int = 100,
    workers: int = 2,
    limits: Limits | None = None,
) -> list[Check]:
    """Check a task's problems and its verifier; no model is needed.

    Args:
        task: Made by ``load_task``, so that a fresh process can load it too.
        count: How many problems of each split are looked at.
        workers: Worker processes for a verifier that is not safe.
        limits: What it may use.

    Returns:
        One outcome for each check, in the order in which they were made. Where the problems cannot
        be made, that is the only one.

    Raises:
        MulliganError: the verifier cannot be started.
    """
    with verifier_for(task, workers, limits) as verifier:
        bench = _Bench(task, verifier, count)
        checks = [_run("problems can be made", _make_problems, bench)]
        if checks[0].result == "ok":
            checks += [_run(name, check, bench) for name, check in _CHECKS.items()]
        return checks


def passed(checks: Iterable[Check]) -> bool:
    """Whether no check failed."""
    return all(check.result != "failed" for check in checks)


def validation_table(title: str, checks: Iterable[Check]) -> "Table":
    """Return the outcomes as a table for the terminal."""
    from rich.table import Table
    from rich.text import Text

    colours = {"ok": "green", "failed": "bold red", "skipped": "yellow"}
    table = Table(title=Text(title), title_justify="left")
    for header in ("check", "result", "what was seen"):
        table.add_column(header, no_wrap=header == "result")
    for check in checks:
        detail = check.detail if check.problem is None else f"{check.detail}\n{_name(check)}"
        table.add_row(check.name, Text(check.result, colours[check.result]), Text(detail))
    return table


def _name(check: Check) -> str:
    """Name the offending problem so that a person finds it."""
    assert check.problem is not None
    question = str(check.problem.messages[-1].get("content", "")) if check.problem.messages else ""
    return f"in problem {check.problem.id}: {_short(question, 200)}"


def _run(name: str, check: Callable[[_Bench], str], bench: _Bench) -> Check:
    try:
        with waiting(f"checking: {name}"):
            return Check(name, "ok", check(bench))
    except _Broken as broken:
        return Check(name, "failed", broken.detail, broken.problem)
    except _NothingToCheck as nothing:
        return Check(name, "skipped", str(nothing))


def _make_problems(bench: _Bench) -> str:
    splits = bench.task.splits
    if unknown := [split for split in splits if split not in get_args(Split)]:
        raise _Broken(f"splits lists {unknown[0]!r}; it may list {', '.join(get_args(Split))}")
    if lacking := [split for split in ("train", "test") if split not in splits]:
        raise _Broken(f"splits lacks {lacking[0]!r}: every task has train and test")
    for split in splits:
        bench.problems[split] = _first(bench, split)
        if not bench.problems[split]:
            raise _Broken(f"the {split} split has no problems")
    seen = ", ".join(f"{len(bench.problems[split])} {split}" for split in splits)
    return f"{seen} looked at" + ("" if "dev" in splits else "; there is no dev split")


def _first(bench: _Bench, split: Split) -> list[Problem]:
    try:
        problems = list(islice(bench.task.problems(split), bench.count))
    except Exception as error:
        raise _Broken(f"problems({split!r}) raised {explain(error)}") from error
    for problem in problems:
        if not isinstance(problem, Problem):
            raise _Broken(f"problems({split!r}) yielded {_short(repr(problem))}, not a Problem")
    return problems


def _plain(bench: _Bench) -> str:
    for problem in bench.all():
        try:
            travelled = json.loads(json.dumps(problem.given, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise _Broken(f"given is not JSON: {error}", problem) from error
        if travelled != problem.given:
            raise _Broken(
                "given changes on its way through JSON (a tuple becomes a list, a number as a key "
                "becomes text): use lists, and text as keys",
                problem,
            )
    return "what the verifier is given is plain JSON"


def _unique(bench: _Bench) -> str:
    for split in bench.problems:
        seen: set[str] = set()
        for problem in bench.problems[split]:
            if problem.id in seen:
                raise _Broken(f"the {split} split yields it twice", problem)
            seen.add(problem.id)
    return "no id comes twice in a split"


def _stable(bench: _Bench) -> str:
    for split in bench.problems:
        ids = [problem.id for problem in bench.problems[split]]
        again = [problem.id for problem in _first(bench, split)]
        _compare_ids(ids, again, bench.problems[split], f"{split}: asked a second time")
    if bench.task.source is None:
        return "the same twice (not tried in a fresh process: the task was made by hand)"
    limits = Limits(network=bench.task.network)
    with IsolatedVerifier(bench.task.source, 1, limits) as fresh:
        for split in bench.problems:
            ids = [problem.id for problem in bench.problems[split]]
            try:
                again = fresh.problem_ids(split, bench.count)
            except MulliganError as error:
                raise _Broken(f"in a fresh process: {error}") from error
            _compare_ids(ids, again, bench.problems[split], f"{split}: in a fresh process")
    return "the same twice, and in a fresh process"


def _compare_ids(ids: list[str], again: list[str], problems: list[Problem], where: str) -> None:
    if ids == again:
        return
    pairs = zip(ids, again, problems, strict=False)
    differing = next((problem for one, other, problem in pairs if one != other), None)
    raise _Broken(
        f"{where}, the problems are others or in another order (unseeded random numbers, the time, "
        f"or the order of a set?)",
        differing,
    )


def _disjoint(bench: _Bench) -> str:
    names = {"train": "training", "dev": "dev", "test": "test"}
    for one, other in combinations(bench.problems, 2):
        ids = {problem.id for problem in bench.problems[other]}
        for problem in bench.problems[one]:
            if problem.id in ids:
                where = f"the {names[one]} split and in the {names[other]} split"
                raise _Broken(f"it is in {where}", problem)
    return "no problem is in two splits"


def _references_pass(bench: _Bench) -> str:
    pairs = [(p, p.reference) for p in bench.all() if p.reference is not None]
    if not pairs:
        raise _NothingToCheck("no problem has a reference answer")
    for problem, answer, verdict in bench.judge(pairs):
        if not verdict.passed:
            raise _Broken(f"its reference {_short(answer)!r} got: {_said(verdict)}", problem)
    return f"{len(pairs)} reference answers pass"


def _own_wrong_fail(bench: _Bench) -> str:
    pairs = [(p, answer) for p in bench.all() for answer in bench.task.wrong_answers(p)]
    if not pairs:
        raise _NothingToCheck("the task gives no examples (its method wrong_answers)")
    _none_passes(bench.judge(pairs))
    return f"{len(pairs)} examples of the task do not pass"


def _malformed_fail(bench: _Bench) -> str:
    pairs = [(problem, text) for problem in bench.all()[:20] for text in MALFORMED]
    _none_passes(bench.judge(pairs))
    return f"{len(pairs)} empty and garbled answers do not pass"


def _none_passes(judged: Iterable[tuple[Problem, str, Verdict]]) -> None:
    for problem, answer, verdict in judged:
        if verdict.passed:
            raise _Broken(f"the answer {_short(answer)!r} passes", problem)


def _generated_wrong_fail(bench: _Bench) -> str:
    if bench.task.answers_are_shared:
        raise _NothingToCheck("an answer to one problem may be right for others in this task")
    pairs = list(_probably_wrong(bench.all()))
    if not pairs:
        raise _NothingToCheck("there are no two different reference answers to exchange")
    judged = bench.judge(pairs)
    passing = [item for item in judged if item[2].passed]
    if len(passing) > TOLERATED * len(judged):
        problem, answer, _ = passing[0]
        raise _Broken(
            f"{len(passing)} of {len(judged)} answers that belong to other problems, or have their "
            f"digits changed, pass; one is {_short(answer)!r}",
            problem,
        )
    chance = f"; {len(passing)} pass, by chance if the answers are few" if passing else ""
    return f"{len(judged)} references of other problems and with changed digits tried{chance}"


def _probably_wrong(problems: Sequence[Problem]) -> Iterator[tuple[Problem, str]]:
    """Exchange the references of problems, and raise each of their digits by one."""
    known = [problem for problem in problems if problem.reference is not None]
    others = known[1:] + known[:1]
    raised = str.maketrans("0123456789", "1234567890")
    for problem, other in zip(known, others, strict=True):
        assert problem.reference is not None
        assert other.reference is not None
        for answer in (other.reference, problem.reference.translate(raised)):
            if answer != problem.reference:
                yield problem, answer


def _never_breaks(bench: _Bench) -> str:
    for problem, answer, verdict in bench.verdicts:
        if verdict.status == "error":
            raise _Broken(f"on the answer {_short(answer)!r}: {verdict.detail}", problem)
    return f"no error in {len(bench.verdicts)} verifications"


def _deterministic(bench: _Bench) -> str:
    judged = [item for item in bench.verdicts if item[2].status != "error"]
    again = bench.verifier.verify_many([(problem, answer) for problem, answer, _ in judged])
    for (problem, answer, before), after in zip(judged, again, strict=True):
        if (before.status, before.reason) != (after.status, after.reason):
            raise _Broken(
                f"the answer {_short(answer)!r} got {_said(before)}, then {_said(after)}", problem
            )
    return f"{len(judged)} answers judged twice alike"


def _known_reasons(bench: _Bench) -> str:
    reasons = bench.task.reasons
    for problem, answer, verdict in bench.verdicts:
        if verdict.status != "error" and verdict.reason not in reasons:
            raise _Broken(
                f"the answer {_short(answer)!r} got the reason {verdict.reason!r}, which is not "
                f"among the task's reasons: {', '.join(reasons)}",
                problem,
            )
    seen = sorted({verdict.reason for _, _, verdict in bench.verdicts if verdict.status != "error"})
    return f"seen: {', '.join(seen) or 'none'}"


def _time(bench: _Bench) -> str:
    sample = [item for item in bench.verdicts if item[2].status != "error"][:50]
    if not sample:
        raise _NothingToCheck("no verification went through")
    times = []
    for problem, answer, _ in sample:
        began = time.perf_counter()
        bench.verifier.verify_many([(problem, answer)])
        times.append(1000 * (time.perf_counter() - began))
    return f"median {statistics.median(times):.2g} ms, longest {max(times):.2g} ms"


def _said(verdict: Verdict) -> str:
    detail = f", {verdict.detail}" if verdict.detail else ""
    return f"{verdict.status} ({verdict.reason}{detail})"


def _short(text: str, length: int = 80) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


_CHECKS: dict[str, Callable[[_Bench], str]] = {
    "problems are plain JSON": _plain,
    "ids are unique": _unique,
    "ids are stable": _stable,
    "splits are disjoint": _disjoint,
    "reference answers pass": _references_pass,
    "own wrong answers fail": _own_wrong_fail,
    "malformed answers fail": _malformed_fail,
    "generated wrong answers fail": _generated_wrong_fail,
    "verifier never breaks": _never_breaks,
    "verifier is deterministic": _deterministic,
    "reasons are the task's own": _known_reasons,
    "time per verification": _time,
}
