"""What an evaluation says in numbers: columns, what reflection adds, differences, flips.

Everything is computed from the trials of a run. A second try counts as passed where the first try
passed, or where that second answer did. A row whose verifier broke is left out of its column and
counted apart.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from mulligan.evaluation.controls import CONTROLS
from mulligan.evaluation.scores import SCORES, answer_in, judged, outcome, was_asked
from mulligan.evaluation.statistics import Resampled, holm, mcnemar, resample_pairs, wilson
from mulligan.evaluation.tables import (
    Cell,
    ControlDifference,
    Difference,
    Endpoint,
    Entropy,
    Flip,
    LeakRate,
    LeakSplit,
    Length,
    ReasonCount,
    Size,
    Table,
)
from mulligan.evaluation.trials import COLUMNS, TIMES, Plan, Trials, plan_of
from mulligan.types import Trial

_Row = TypeVar("_Row")


def compute(trials: Trials, plan: Plan | None = None) -> Table:
    """Compute the table from the trials of a run.

    Args:
        trials: the trials by when.
        plan: the endpoints that the recipe declares; by default those of a recipe that names none.
    """
    plan = plan or plan_of()
    whens = [when for when in trials if trials[when]]
    differences = dict(_differences(trials))
    return Table(
        cells=_present(_cell(trials[when], column, when) for when in whens for column in COLUMNS),
        differences=tuple(row for row, _ in differences.values()),
        endpoints=tuple(_endpoints(differences, plan)),
        controls=_present(
            _control_difference(trials[when], control.column, when)
            for when in whens
            for control in CONTROLS
        ),
        leak_rates=_present(_leak_rate(trials[when], when) for when in whens),
        leak_splits=_present(
            _leak_split(trials[when], leaked, when) for when in whens for leaked in (True, False)
        ),
        reasons=tuple(row for when in whens for row in _reasons(trials[when], when)),
        flips=tuple(_flips(trials)),
        lengths=tuple(row for when in whens for row in _lengths(trials[when], when)),
        entropies=tuple(row for when in whens for row in _entropies(trials[when], when)),
        sizes=tuple(
            Size(when, len({trial.problem_id for trial in trials[when]}), len(trials[when]))
            for when in whens
        ),
        parts=tuple((name, compute(own, plan)) for name, own in _parts(trials)),
    )


def _parts(trials: Trials) -> Iterator[tuple[str, Trials]]:
    """Yield the trials of each part of a mix of tasks; nothing where there is one task."""
    names = dict.fromkeys(trial.task for rows in trials.values() for trial in rows)
    for name in names if len(names) > 1 else ():
        yield name, {w: [t for t in rows if t.task == name] for w, rows in trials.items()}


def paired(trials: Trials) -> list[tuple[Trial, Trial]]:
    """Return the trials of the same problem and sample, before and after training."""
    after = {(t.problem_id, t.sample): t for t in trials.get("after", ())}
    keys = ((t, (t.problem_id, t.sample)) for t in trials.get("before", ()))
    return [(trial, after[key]) for trial, key in keys if key in after]


def _present(rows: Iterable[_Row | None]) -> tuple[_Row, ...]:
    return tuple(row for row in rows if row is not None)


def _cell(trials: Sequence[Trial], column: str, when: str) -> Cell | None:
    verdicts = [known for trial in trials if (known := judged(trial, column)) is not None]
    if not was_asked(trials, column) or not verdicts:
        return None
    passed, n = sum(verdicts), len(verdicts)
    interval = wilson(passed, n)
    return Cell(column, when, passed, n, interval.low, interval.high)


def difference_of(trials: Trials, name: str) -> Difference | None:
    """Return one difference alone, at the cost of one; None where it was not measured."""
    found = _difference(paired(trials), _asked(trials), name)
    return found[0] if found else None


def _differences(trials: Trials) -> Iterator[tuple[str, tuple[Difference, Resampled]]]:
    """Yield after minus before for everything that both evaluations have."""
    pairs, asked = paired(trials), _asked(trials)
    for name in SCORES:
        found = _difference(pairs, asked, name)
        if found is not None:
            yield name, found


def _asked(trials: Trials) -> frozenset[str]:
    """Return the columns that were evaluated both times."""
    return frozenset(
        column for column in COLUMNS if all(was_asked(trials.get(w, ()), column) for w in TIMES)
    )


def _difference(
    pairs: Sequence[tuple[Trial, Trial]], asked: frozenset[str], name: str
) -> tuple[Difference, Resampled] | None:
    needs, score = SCORES[name]
    rows = [(b.problem_id, score(b), score(a)) for b, a in pairs] if needs <= asked else []
    resampled = _resample(rows)
    if resampled is None:
        return None
    interval = resampled.interval()
    gained, lost, p_exact = None, None, None
    if name in COLUMNS:
        gained = sum(b == 0 and a == 1 for _, b, a in rows)
        lost = sum(b == 1 and a == 0 for _, b, a in rows)
        known = [problem for problem, b, a in rows if b is not None and a is not None]
        p_exact = mcnemar(gained, lost) if len({*known}) == len(known) else None
    found = Difference(name, interval.value, interval.low, interval.high, gained, lost, p_exact)
    return found, resampled


def _endpoints(
    differences: dict[str, tuple[Difference, Resampled]], plan: Plan
) -> Iterator[Endpoint]:
    """Yield the declared endpoints that were measured, the primary one first."""
    secondary = [name for name in plan.endpoints.secondary if name in differences]
    adjusted = holm([differences[name][1].p for name in secondary])
    if plan.endpoints.primary in differences:
        resampled = differences[plan.endpoints.primary][1]
        yield _endpoint(plan.endpoints.primary, "primary", resampled, resampled.p, plan.margin)
    for name, p in zip(secondary, adjusted, strict=True):
        yield _endpoint(name, "secondary", differences[name][1], p, plan.margin)


def _endpoint(name: str, role: str, resampled: Resampled, p: float, margin: float) -> Endpoint:
    interval = resampled.interval()
    p_equivalent = resampled.tost(margin)
    if p < 0.05:
        conclusion = "rose" if resampled.value > 0 else "fell"
    else:
        conclusion = "no difference" if p_equivalent < 0.05 else "undecided"
    return Endpoint(
        name,
        role,
        resampled.value,
        interval.low,
        interval.high,
        resampled.p,
        p,
        margin,
        p_equivalent,
        conclusion,
    )


def _control_difference(
    trials: Sequence[Trial], control: str, when: str
) -> ControlDifference | None:
    if not (was_asked(trials, control) and was_asked(trials, "after_reflection")):
        return None
    resampled = _resample(
        [(t.problem_id, judged(t, control), judged(t, "after_reflection")) for t in trials]
    )
    if resampled is None:
        return None
    interval = resampled.interval()
    return ControlDifference(when, control, interval.value, interval.low, interval.high)


def _resample(rows: Sequence[tuple[str, float | None, float | None]]) -> Resampled | None:
    """Bootstrap rows of (problem, first, second) that are known on both sides."""
    known = [row for row in rows if row[1] is not None and row[2] is not None]
    if not known:
        return None
    problems, first, second = zip(*known, strict=True)
    return resample_pairs(first, second, problems)


def _leak_rate(trials: Sequence[Trial], when: str) -> LeakRate | None:
    checked = [trial.leaked for trial in trials if trial.leaked is not None]
    if not checked:
        return None
    interval = wilson(sum(checked), len(checked))
    return LeakRate(when, sum(checked), len(checked), interval.low, interval.high)


def _leak_split(trials: Sequence[Trial], leaked: bool, when: str) -> LeakSplit | None:
    """Compare retries with asking again, on the rows whose reflection leaks, or does not."""
    rows = [
        (trial.problem_id, again, reflected)
        for trial in trials
        if trial.leaked is leaked
        and (again := judged(trial, "after_nothing")) is not None
        and (reflected := judged(trial, "after_reflection")) is not None
    ]
    resampled = _resample(rows)
    if resampled is None:
        return None
    interval = resampled.interval()
    return LeakSplit(
        when,
        leaked,
        passed_after_reflection=sum(reflected for _, _, reflected in rows),
        passed_after_nothing=sum(again for _, again, _ in rows),
        n=len(rows),
        difference=interval.value,
        low=interval.low,
        high=interval.high,
    )


def _reasons(trials: Sequence[Trial], when: str) -> Iterator[ReasonCount]:
    """Yield how often each reason was given, the most frequent first within a column."""
    for column in COLUMNS:
        verdicts = [answer.verdict for trial in trials if (answer := answer_in(trial, column))]
        counts = Counter((verdict.status, verdict.reason) for verdict in verdicts)
        for (status, reason), count in sorted(counts.items(), key=lambda row: (-row[1], row[0])):
            yield ReasonCount(when, column, status, reason, count)


def _flips(trials: Trials) -> Iterator[Flip]:
    """Yield how often each outcome before training became each outcome after it."""
    for column in ("first_try", "after_reflection"):
        counts = Counter(
            (*before, *after)
            for b, a in paired(trials)
            if (before := outcome(b, column)) and (after := outcome(a, column))
        )
        for key, count in sorted(counts.items(), key=lambda row: (-row[1], row[0])):
            yield Flip(column, *key, count)


def _lengths(trials: Sequence[Trial], when: str) -> Iterator[Length]:
    for name, rows in _texts(trials).items():
        if rows:
            yield Length(when, name, sum(tokens for tokens, _ in rows) / len(rows), len(rows))


def _entropies(trials: Sequence[Trial], when: str) -> Iterator[Entropy]:
    """Yield minus the mean log-probability of the sampled tokens of each kind of text."""
    for name, rows in _texts(trials).items():
        known = [(tokens, logprob) for tokens, logprob in rows if logprob is not None]
        total = sum(tokens for tokens, _ in known)
        if total and name != "greedy":
            nats = -sum(tokens * logprob for tokens, logprob in known) / total
            yield Entropy(when, name, nats, total)


def _texts(trials: Sequence[Trial]) -> dict[str, list[tuple[int, float | None]]]:
    """Return (tokens, mean log-probability) of every text, by column and for reflections."""
    reflections = [
        (t.reflection_tokens, t.reflection_logprob) for t in trials if t.reflection is not None
    ]
    answers = {
        column: [(a.tokens, a.logprob) for t in trials if (a := answer_in(t, column))]
        for column in COLUMNS
    }
    return {"first_try": [], "reflection": reflections, **answers}
