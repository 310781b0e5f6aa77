"""Does training level off, and does it fall again? The evaluations on dev, pooled over runs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mulligan.evaluation.scores import SCORES
from mulligan.study.examine.pooling import Quantity, Weighed, pool, present
from mulligan.types import Trial

SAYS = "what is solved on dev over the steps of training: does it level off, does it fall again"

OUTCOMES = {
    "first_try": "solved at the first try",
    "after_nothing": "solved when asked again",
    "after_reflection": "solved after reflection",
    "reflection_over_nothing": "what reflection adds",
}


@dataclass(frozen=True, slots=True)
class CurveRow:
    """One problem of dev after some steps; None where a verdict is not known."""

    step: int
    problem_id: str
    first_try: float | None
    after_nothing: float | None
    after_reflection: float | None
    reflection_over_nothing: float | None


def rows_of(trials: Iterable[Trial]) -> Iterator[CurveRow]:
    """Yield what each trial on dev counts as."""
    for trial in trials:
        step = int(trial.when.removeprefix("step-"))
        scores = {name: SCORES[name][1](trial) for name in OUTCOMES}
        yield CurveRow(step, trial.problem_id, **scores)


def summarise(rows: Mapping[str, Sequence[CurveRow]]) -> list[Quantity]:
    """Return the curve of each outcome, and how it ends against how it was half-way."""
    found: list[Quantity | None] = []
    steps = sorted({row.step for each in rows.values() for row in each})
    if not steps:
        return []
    half = min(steps, key=lambda step: (abs(step - steps[-1] / 2), step))
    for name, says in OUTCOMES.items():
        found += [pool(name, f"step {step}", says, _at(rows, name, step)) for step in steps]
        for earlier, title in ((steps[0], "from the start"), (half, f"from step {half}")):
            changes = {run: _change(each, name, earlier, steps[-1]) for run, each in rows.items()}
            what = f"{says}: at step {steps[-1]} less at step {earlier}"
            found.append(pool(f"{name}_change", title, what, changes))
    return present(found)


def _at(rows: Mapping[str, Sequence[CurveRow]], name: str, step: int) -> dict[str, list[Weighed]]:
    return {run: list(_values(each, name, step)) for run, each in rows.items()}


def _values(rows: Sequence[CurveRow], name: str, step: int) -> Iterator[Weighed]:
    for row in rows:
        value = getattr(row, name)
        if row.step == step and value is not None:
            yield row.problem_id, float(value), 1.0


def _change(rows: Sequence[CurveRow], name: str, earlier: int, later: int) -> list[Weighed]:
    first = {problem: value for problem, value, _ in _values(rows, name, earlier)}
    return [
        (problem, value - first[problem], 1.0)
        for problem, value, _ in _values(rows, name, later)
        if problem in first
    ]
