"""What an evaluation says in numbers: the four columns, their differences, the controls.

Everything is computed from ``evaluation/before.jsonl`` and ``evaluation/after.jsonl`` of a run. A
second try counts as passed where the first try passed, or where that second answer did. A row
whose verifier broke is left out of its column and counted apart.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from mulligan.evaluation.controls import CONTROLS
from mulligan.evaluation.statistics import Interval, paired_bootstrap, wilson
from mulligan.evaluation.trials import COLUMNS, TIMES, Trials, answer_in, judged, was_asked
from mulligan.types import Status, Trial

_Row = TypeVar("_Row")


@dataclass(frozen=True, slots=True)
class Cell:
    """Rows that passed in one column, with the Wilson interval of their share."""

    column: str
    when: str
    passed: int
    n: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        """Share that passed."""
        return self.passed / self.n


@dataclass(frozen=True, slots=True)
class Difference:
    """After minus before, as a fraction, with its paired bootstrap interval."""

    column: str
    """A column of the table, or ``reflection_gain``: after reflection minus first try."""
    difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ControlDifference:
    """After reflection minus a control at one time, as a fraction, with its interval."""

    when: str
    control: str
    difference: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class LeakRate:
    """How many reflections contain a passing answer, with the Wilson interval of their share."""

    when: str
    leaked: int
    n: int
    low: float
    high: float

    @property
    def rate(self) -> float:
        """Share of the reflections."""
        return self.leaked / self.n


@dataclass(frozen=True, slots=True)
class ReasonCount:
    """How often the verifier gave a reason for the answers given in a column."""

    when: str
    column: str
    status: Status
    reason: str
    count: int


@dataclass(frozen=True, slots=True)
class Length:
    """How long the texts of one kind are."""

    when: str
    text: str
    """A column of the table, or ``reflection``."""
    mean_tokens: float
    n: int


@dataclass(frozen=True, slots=True)
class Size:
    """What was evaluated: with several samples a problem there are more rows than problems."""

    when: str
    problems: int
    rows: int


@dataclass(frozen=True, slots=True)
class Table:
    """Everything an evaluation says in numbers."""

    cells: tuple[Cell, ...]
    differences: tuple[Difference, ...]
    """Empty until there is an evaluation after training."""
    controls: tuple[ControlDifference, ...]
    leak_rates: tuple[LeakRate, ...]
    reasons: tuple[ReasonCount, ...]
    lengths: tuple[Length, ...]
    sizes: tuple[Size, ...]

    def cell(self, column: str, when: str) -> Cell | None:
        """Return one cell, or None where that column was not evaluated."""
        return next((c for c in self.cells if (c.column, c.when) == (column, when)), None)

    def difference(self, column: str) -> Difference | None:
        """Return the difference of one column, or None where it could not be computed."""
        return next((d for d in self.differences if d.column == column), None)

    def size(self, when: str) -> Size | None:
        """Return what was evaluated at one time, or None where nothing was."""
        return next((size for size in self.sizes if size.when == when), None)

    def count(self, column: str, when: str, status: Status) -> int:
        """Return how many answers of a column have a status."""
        wanted = (column, when, status)
        return sum(r.count for r in self.reasons if (r.column, r.when, r.status) == wanted)

    def unjudged(self, column: str, when: str) -> int:
        """Return how many answers of a column the verifier could not judge."""
        return self.count(column, when, "error")


def compute(trials: Trials) -> Table:
    """Compute the table from the trials of a run."""
    whens = [when for when in trials if trials[when]]
    return Table(
        cells=_present(_cell(trials[when], column, when) for when in whens for column in COLUMNS),
        differences=_present(_differences(trials)),
        controls=_present(
            _control_difference(trials[when], control.column, when)
            for when in whens
            for control in CONTROLS
        ),
        leak_rates=_present(_leak_rate(trials[when], when) for when in whens),
        reasons=tuple(row for when in whens for row in _reasons(trials[when], when)),
        lengths=_present(row for when in whens for row in _lengths(trials[when], when)),
        sizes=tuple(
            Size(when, len({trial.problem_id for trial in trials[when]}), len(trials[when]))
            for when in whens
        ),
    )


def _present(rows: Iterable[_Row | None]) -> tuple[_Row, ...]:
    return tuple(row for row in rows if row is not None)


def _cell(trials: Sequence[Trial], column: str, when: str) -> Cell | None:
    verdicts = [known for trial in trials if (known := judged(trial, column)) is not None]
    if not was_asked(trials, column) or not verdicts:
        return None
    passed, n = sum(verdicts), len(verdicts)
    interval = wilson(passed, n)
    return Cell(column, when, passed, n, interval.low, interval.high)


def _differences(trials: Trials) -> Iterator[Difference]:
    """Yield after minus before for every column that both evaluations have."""
    pairs = paired(trials)
    asked = {column for column in COLUMNS if all(was_asked(trials[when], column) for when in TIMES)}
    for name, (needs, score) in _SCORES.items():
        if needs <= asked:
            interval = _paired_interval((b.problem_id, score(b), score(a)) for b, a in pairs)
            if interval is not None:
                yield Difference(name, interval.value, interval.low, interval.high)


def paired(trials: Trials) -> list[tuple[Trial, Trial]]:
    """Return the trials of the same problem and sample, before and after training."""
    after = {(trial.problem_id, trial.sample): trial for trial in trials["after"]}
    keys = ((trial, (trial.problem_id, trial.sample)) for trial in trials["before"])
    return [(trial, after[key]) for trial, key in keys if key in after]


def _control_difference(
    trials: Sequence[Trial], control: str, when: str
) -> ControlDifference | None:
    if not (was_asked(trials, control) and was_asked(trials, "after_reflection")):
        return None
    interval = _paired_interval(
        (trial.problem_id, judged(trial, control), judged(trial, "after_reflection"))
        for trial in trials
    )
    if interval is None:
        return None
    return ControlDifference(when, control, interval.value, interval.low, interval.high)


def _paired_interval(
    rows: Iterable[tuple[str, float | None, float | None]],
) -> Interval | None:
    """Bootstrap rows of (problem, first, second) that are known on both sides."""
    known = [row for row in rows if row[1] is not None and row[2] is not None]
    if not known:
        return None
    problems, first, second = zip(*known, strict=True)
    return paired_bootstrap(first, second, problems)


def _less(trial: Trial, column: str, other: str) -> float | None:
    """Return 1, 0 or -1: whether a trial is solved in one column, less whether in another."""
    first, second = judged(trial, column), judged(trial, other)
    return None if first is None or second is None else float(first) - float(second)


_SCORES: dict[str, tuple[frozenset[str], Callable[[Trial], float | None]]] = {
    **{column: (frozenset({column}), partial(judged, column=column)) for column in COLUMNS},
    "reflection_over_nothing": (
        frozenset({"after_reflection", "after_nothing"}),
        partial(_less, column="after_reflection", other="after_nothing"),
    ),
    "reflection_gain": (
        frozenset({"after_reflection", "first_try"}),
        partial(_less, column="after_reflection", other="first_try"),
    ),
}
"""What is compared before and after training: the columns it needs, and a trial's score."""


def _leak_rate(trials: Sequence[Trial], when: str) -> LeakRate | None:
    checked = [trial.leaked for trial in trials if trial.leaked is not None]
    if not checked:
        return None
    interval = wilson(sum(checked), len(checked))
    return LeakRate(when, sum(checked), len(checked), interval.low, interval.high)


def _reasons(trials: Sequence[Trial], when: str) -> Iterator[ReasonCount]:
    """Yield how often each reason was given, the most frequent first within a column."""
    for column in COLUMNS:
        verdicts = [answer.verdict for trial in trials if (answer := answer_in(trial, column))]
        counts = Counter((verdict.status, verdict.reason) for verdict in verdicts)
        for (status, reason), count in sorted(counts.items(), key=lambda row: (-row[1], row[0])):
            yield ReasonCount(when, column, status, reason, count)


def _lengths(trials: Sequence[Trial], when: str) -> Iterator[Length]:
    reflected = [trial.reflection_tokens for trial in trials if trial.reflection is not None]
    texts: dict[str, list[int]] = {"first_try": [], "reflection": reflected}
    for column in COLUMNS:
        answers = [answer for trial in trials if (answer := answer_in(trial, column))]
        texts[column] = [answer.tokens for answer in answers]
    for name, tokens in texts.items():
        if tokens:
            yield Length(when, name, sum(tokens) / len(tokens), len(tokens))
