"""The published record of a study on seeds that nobody chose: endpoints, and every attempt.

The file says what a study showed, pooled and seed by seed, where a new seed is expected, how its
base arm compares with the others after training, and which sets of seeds were ever run for it. A
second set is judged at a higher level than the first.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pydantic_core

from mulligan.errors import MulliganError
from mulligan.storage.atomic import write_atomically
from mulligan.study.plan import Plan
from mulligan.study.study_file import DerivedSeeds
from mulligan.study.table import Estimate, StudyTable

NAMES = {
    "after_reflection": "after_reflection",
    "reflection_over_nothing": "reflection_over_nothing",
    "asked_again": "after_nothing",
    "first_try": "first_try",
    "first_try_greedy": "greedy",
}
"""Names in the record, and the outcomes that they stand for."""

LEVELS = {1: 0.95, 2: 0.975}
"""Level by attempt: whoever tries twice has to show more."""


@dataclass(frozen=True, slots=True)
class EndpointRecord:
    """A change of the base arm, or what it has more than another arm after training; fractions."""

    name: str
    mean: float
    low: float
    high: float
    sd: float
    per_seed: dict[str, float]
    new_seed_low: float
    new_seed_high: float


def publish(design: Plan, table: StudyTable, path: Path) -> dict[str, Any]:
    """Write the record of a study's base arm; earlier attempts in the file stay listed.

    A comparison is the base arm less another one after training, paired by seed, with the tokens
    that each generated in a run on average. It is made once every run of that arm is finished.

    Raises:
        MulliganError: the seeds are not derived, runs are missing, an outcome was not evaluated,
            the level is not that of the attempt, or the file holds another record.
    """
    seeds = design.study.seeds
    if not isinstance(seeds, DerivedSeeds):
        raise MulliganError(
            f"{design.path}: seeds that somebody chose cannot be published as an acceptance. "
            "Derive them: `seeds: {derive: 10, from: recipe}`."
        )
    _refuse_unfit(design, table, seeds)
    attempt = {
        "attempt": seeds.attempt,
        "study": design.name,
        "recipe_digest": design.recipe_digest,
        "level": table.level,
        "seeds": [int(seed) for seed in design.seeds],
        "endpoints": [asdict(each) for each in _records(table)],
        "comparisons": [_comparison(table, arm) for arm in table.arms if arm != table.base],
    }
    attempts = [a for a in _earlier(path) if a["attempt"] != seeds.attempt] + [attempt]
    content = {
        "seeds": attempt["seeds"],
        "endpoints": attempt["endpoints"],
        "comparisons": attempt["comparisons"],
        "attempts": sorted(attempts, key=lambda each: int(each["attempt"])),
        "before": {name: _mean(table, outcome, "before") for name, outcome in NAMES.items()},
        "after": {name: _mean(table, outcome, "after") for name, outcome in NAMES.items()},
        "problems": table.problems,
        "command": f"mulligan study {design.path} --accept {path}",
    }
    write_atomically(path, json.dumps(content, indent=1) + "\n")
    return content


def _refuse_unfit(design: Plan, table: StudyTable, seeds: DerivedSeeds) -> None:
    finished, planned = table.finished(table.base), table.planned(table.base)
    if finished < planned:
        raise MulliganError(
            f"Only {finished} of {planned} runs of {table.base!r} are finished. An acceptance "
            "needs all of them: a seed that fails counts too. Run the study again to finish it."
        )
    wanted = LEVELS.get(seeds.attempt)
    if wanted is None:
        raise MulliganError(
            f"{design.path}: attempt {seeds.attempt}: after two sets of seeds there is no third."
        )
    if table.level != wanted:
        raise MulliganError(
            f"{design.path}: attempt {seeds.attempt} is judged at level {wanted}, but the study "
            f"says level: {table.level}."
        )


def _records(table: StudyTable) -> Iterator[EndpointRecord]:
    for name, outcome in NAMES.items():
        change = table.estimate(table.base, outcome, "change")
        if change is None or change.low is None:
            raise MulliganError(
                f"The study did not evaluate {outcome!r}, which the record needs. Evaluate it "
                "(evaluate.greedy: true, evaluate.controls: [nothing]) with two seeds or more."
            )
        yield _record(name, change)


def _record(name: str, change: Estimate) -> EndpointRecord:
    numbers = (change.low, change.high, change.sd, change.new_low, change.new_high)
    low, high, sd, new_low, new_high = (float(n) for n in numbers if n is not None)
    return EndpointRecord(name, change.mean, low, high, sd, dict(change.per_run), new_low, new_high)


def _comparison(table: StudyTable, arm: str) -> dict[str, Any]:
    """Return what the base arm has more than another one after training."""
    counts = {"against": arm, "finished": table.finished(arm), "planned": table.planned(arm)}
    if table.finished(arm) < table.planned(arm):
        return counts | {"generated_tokens": {}, "endpoints": []}
    after = {name: table.estimate(arm, out, "after_against_base") for name, out in NAMES.items()}
    records = [_record(name, _negated(e)) for name, e in after.items() if e and e.low is not None]
    tokens = {c.arm: c.generated_tokens for c in table.costs if c.arm in (table.base, arm)}
    return counts | {"generated_tokens": tokens, "endpoints": [asdict(each) for each in records]}


def _negated(estimate: Estimate) -> Estimate:
    """Return a difference the other way round."""
    low, high, new_low, new_high = (
        None if end is None else -end
        for end in (estimate.high, estimate.low, estimate.new_high, estimate.new_low)
    )
    per_run = {seed: -value for seed, value in estimate.per_run.items()}
    return replace(
        estimate,
        mean=-estimate.mean,
        per_run=per_run,
        low=low,
        high=high,
        new_low=new_low,
        new_high=new_high,
    )


def _mean(table: StudyTable, outcome: str, when: Any) -> float | None:
    estimate = table.estimate(table.base, outcome, when)
    return estimate.mean if estimate else None


def _earlier(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        attempts = pydantic_core.from_json(path.read_bytes())["attempts"]
        if not all(isinstance(attempt["attempt"], int) for attempt in attempts):
            raise TypeError("an attempt without a number")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise MulliganError(
            f"{path} is not a record of attempts ({error}), so it is left alone. Choose another "
            "file, or restore it: every attempt has to stay listed."
        ) from error
    return list(attempts)
