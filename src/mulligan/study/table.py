"""The table of a study: arms by outcomes, pooled over runs, and each arm against the base."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal

from mulligan.config import Recipe
from mulligan.errors import MulliganError
from mulligan.evaluation.statistics import holm
from mulligan.report.sheets import points
from mulligan.study.outcomes import Scores, endpoints_of, outcomes_of, problems_of, scores
from mulligan.study.plan import Plan, PlannedRun
from mulligan.study.reasons import ReasonChange, reason_changes
from mulligan.study.result import Result
from mulligan.study.statistics import (
    Pooled,
    equivalent,
    pooled,
    smallest_detectable,
    variance_components,
)

Quantity = Literal["before", "after", "change", "against_base", "after_against_base"]
"""Before training, after it, after minus before; the change less the base's, and what is after
training less what is after the base's, which says more where an arm has another warm-up."""

_TESTED: tuple[Quantity, ...] = ("change", "against_base")


@dataclass(frozen=True, slots=True)
class Estimate:
    """One outcome of one arm, pooled over its runs; fractions, or differences of fractions."""

    arm: str
    outcome: str
    quantity: Quantity
    mean: float
    per_run: Mapping[str, float]
    """By seed; the pairs of a difference to the base have one seed."""
    low: float | None = None
    high: float | None = None
    """None with a single run, and for seeds that are crossed: such runs are not independent."""
    sd: float | None = None
    """Between runs."""
    new_low: float | None = None
    new_high: float | None = None
    """Where a new run is expected, at the study's level."""
    p: float | None = None
    """Two-sided, against no difference."""
    p_adjusted: float | None = None
    """By Holm's procedure, for a secondary endpoint."""
    answer: str | None = None
    """What the interval says, in words, for an endpoint."""


@dataclass(frozen=True, slots=True)
class RunRow:
    """What became of one run."""

    arm: str
    seed: str
    failure: str | None
    """Why it is not in the table; None where it is."""
    steps: int | None = None
    generated_tokens: int | None = None
    training_seconds: float | None = None
    collecting_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ArmCost:
    """What training took in the runs of an arm, on the mean: arms are compared at equal tokens."""

    arm: str
    steps: float
    """Optimiser steps."""
    generated_tokens: float
    """Of reflections, retries and fresh tries that were trained on."""
    collecting_tokens: float
    """Of the first tries that failures were found among."""
    against_base: float | None
    """Generated tokens over the base's, where both have runs of the same seeds and generate any."""


@dataclass(frozen=True, slots=True)
class Spread:
    """What makes the variance between the runs of an arm, where seeds are crossed."""

    arm: str
    outcome: str
    components: Mapping[str, float]
    """Standard deviation that each crossed factor makes, and ``rest``."""


@dataclass(frozen=True, slots=True)
class StudyTable:
    """Everything a study says in numbers."""

    name: str
    about: str
    base: str
    level: float
    recipe_digest: str
    problems: int
    primary: str
    secondary: tuple[str, ...]
    margin: float
    estimates: tuple[Estimate, ...]
    runs: tuple[RunRow, ...]
    costs: tuple[ArmCost, ...]
    reasons: tuple[ReasonChange, ...]
    spreads: tuple[Spread, ...]

    def estimate(self, arm: str, outcome: str, quantity: Quantity) -> Estimate | None:
        """Return one estimate, or None where there is none."""
        wanted = (arm, outcome, quantity)
        return next((e for e in self.estimates if (e.arm, e.outcome, e.quantity) == wanted), None)

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms, the base first."""
        return tuple(dict.fromkeys(run.arm for run in self.runs))

    @property
    def outcomes(self) -> tuple[str, ...]:
        """The outcomes that any arm has."""
        return tuple(dict.fromkeys(estimate.outcome for estimate in self.estimates))

    def finished(self, arm: str) -> int:
        """Return how many runs of an arm are in the table."""
        return sum(run.failure is None for run in self.runs if run.arm == arm)

    def planned(self, arm: str) -> int:
        """Return how many runs of an arm there should be."""
        return sum(run.arm == arm for run in self.runs)


def compute(
    plan: Plan, results: Mapping[str, Result], failures: Mapping[str, str], level: float
) -> StudyTable:
    """Compute the table of a study from the runs that are finished.

    Args:
        plan: the study.
        results: finished runs, by id.
        failures: why runs are missing, by id; those without an entry were not made yet.
        level: of the intervals.

    Raises:
        MulliganError: the runs were evaluated on different problems, or follow different rules.
    """
    _refuse_mixed_formats(results)
    problems = problems_of({name: result.trials for name, result in results.items()})
    base = next(run.recipe for run in plan.runs if run.arm == plan.study.base)
    estimates = tuple(
        estimate
        for arm in plan.study.arms
        for outcome in outcomes_of(_recipe(plan, arm))
        for estimate in _estimates(_Data(plan, results, problems, level), arm, outcome)
    )
    declared = base.evaluate.endpoints
    return StudyTable(
        name=plan.name,
        about=plan.study.about,
        base=plan.study.base,
        level=level,
        recipe_digest=plan.recipe_digest,
        problems=len(problems),
        primary=declared.primary,
        secondary=declared.secondary,
        margin=base.evaluate.equivalence_margin,
        estimates=_adjusted(estimates, declared.primary, declared.secondary, level),
        runs=tuple(_row(run, results, failures) for run in plan.runs),
        costs=tuple(_costs(_Data(plan, results, problems, level))),
        reasons=tuple(
            each
            for arm in plan.study.arms
            for each in reason_changes(
                arm, _Data(plan, results, problems, level).of(arm), problems, level
            )
        )
        if plan.crossed is None
        else (),
        spreads=tuple(_spreads(plan, estimates)),
    )


@dataclass(frozen=True)
class _Data:
    plan: Plan
    results: Mapping[str, Result]
    problems: Sequence[str]
    level: float

    def of(self, arm: str) -> list[Result]:
        """Return the finished runs of an arm, in the order of the seeds."""
        runs = [run for run in self.plan.runs if run.arm == arm]
        return [self.results[run.id] for run in runs if run.id in self.results]

    def scores(self, found: Sequence[Result], outcome: str, when: str) -> Scores | None:
        """Return an outcome of some runs at one time."""
        return scores([each.trials for each in found], outcome, when, self.problems)


def _recipe(plan: Plan, arm: str) -> Recipe:
    return next(run.recipe for run in plan.runs if run.arm == arm)


def _estimates(data: _Data, arm: str, outcome: str) -> Iterator[Estimate]:
    """Yield what an arm shows of an outcome, as far as its runs go."""
    found = data.of(arm)
    before, after = (data.scores(found, outcome, w) if found else None for w in ("before", "after"))
    if before is None or after is None:
        return
    seeds = [each.run.seed for each in found]
    change = after.minus(before)
    yield _pool(data, arm, outcome, "before", seeds, before)
    yield _pool(data, arm, outcome, "after", seeds, after)
    yield _pool(data, arm, outcome, "change", seeds, change)
    if arm == data.plan.study.base:
        return
    others = {each.run.seed: each for each in data.of(data.plan.study.base)}
    both = [place for place, seed in enumerate(seeds) if seed in others]
    paired = [others[seeds[place]] for place in both]
    if not paired:
        return
    base = [data.scores(paired, outcome, when) for when in ("before", "after")]
    if base[0] is not None and base[1] is not None:
        difference = change.rows(both).minus(base[1].minus(base[0]))
        seeds = [seeds[place] for place in both]
        yield _pool(data, arm, outcome, "against_base", seeds, difference)
        ends = after.rows(both).minus(base[1])
        yield _pool(data, arm, outcome, "after_against_base", seeds, ends)


def _pool(
    data: _Data, arm: str, outcome: str, quantity: Quantity, seeds: Sequence[str], values: Scores
) -> Estimate:
    known_R = values.weights_RP.sum(axis=1)
    means_R = (values.values_RP * values.weights_RP).sum(axis=1) / known_R
    per_run = {seed: float(mean) for seed, mean in zip(seeds, means_R, strict=True)}
    plain = Estimate(arm, outcome, quantity, float(means_R.mean()), per_run)
    if len(seeds) < 2 or data.plan.crossed is not None:
        return plain
    result = pooled(values.values_RP, values.weights_RP, level=data.level)
    recipe = _recipe(data.plan, arm)
    answer = None
    if quantity in _TESTED and outcome in endpoints_of(recipe):
        none = equivalent(values.values_RP, values.weights_RP, recipe.evaluate.equivalence_margin)
        answer = _answer(result, none, recipe.evaluate.equivalence_margin)
    return replace(
        plain,
        low=result.low,
        high=result.high,
        sd=result.sd,
        new_low=result.new_low,
        new_high=result.new_high,
        p=result.p,
        answer=answer,
    )


def _answer(result: Pooled, none: bool, margin: float) -> str:
    """Say what an interval shows: a difference, none beyond the margin, or that it is undecided."""
    interval = f"[{points(result.low)}, {points(result.high)}]"
    if result.excludes_zero:
        return f"{'higher' if result.low > 0 else 'lower'}: interval {interval}"
    if none:
        return f"no difference beyond {100 * margin:.1f} points: interval {interval}"
    smallest = smallest_detectable(result.sd, len(result.per_run), level=result.level)
    return f"undecided: interval {interval}, smallest detectable effect {100 * smallest:.1f}"


def _adjusted(
    estimates: Sequence[Estimate], primary: str, secondary: Sequence[str], level: float
) -> tuple[Estimate, ...]:
    """Adjust the secondary endpoints of each arm for their number, and say what falls with it."""
    changed = {}
    keys = dict.fromkeys((e.arm, e.quantity) for e in estimates if e.quantity in _TESTED)
    for key in keys:
        family = [
            e
            for e in estimates
            if (e.arm, e.quantity) == key and e.outcome in secondary and e.p is not None
        ]
        adjusted = holm([e.p for e in family if e.p is not None])
        for estimate, p in zip(family, adjusted, strict=True):
            answer = estimate.answer
            if answer and answer.startswith(("higher", "lower")) and p >= 1 - level:
                answer = (
                    f"undecided among {len(family)} secondary endpoints (Holm, p = {p:.3f}): "
                    f"{answer.partition(': ')[2]}"
                )
            changed[id(estimate)] = replace(estimate, p_adjusted=p, answer=answer)
    return tuple(changed.get(id(estimate), estimate) for estimate in estimates)


def _refuse_mixed_formats(results: Mapping[str, Result]) -> None:
    formats = {result.format: name for name, result in results.items()}
    if len(formats) > 1:
        listed = ", ".join(f"{name!r} follows format {each}" for each, name in formats.items())
        raise MulliganError(
            f"Runs of one study were made by versions with different rules: {listed}. Finish the "
            "study with the version that started it, or start it anew."
        )


def _row(run: PlannedRun, results: Mapping[str, Result], failures: Mapping[str, str]) -> RunRow:
    if run.id not in results:
        return RunRow(run.arm, run.seed, failures.get(run.id, "not run yet"))
    cost = results[run.id].cost
    return RunRow(
        run.arm,
        run.seed,
        None,
        cost.steps,
        cost.generated_tokens,
        cost.training_seconds,
        cost.collecting_tokens,
    )


def _costs(data: _Data) -> Iterator[ArmCost]:
    """Yield what each arm's training took; the comparison is made over the seeds of both."""
    base = {each.run.seed: each.cost.generated_tokens for each in data.of(data.plan.study.base)}
    for arm in data.plan.study.arms:
        found = data.of(arm)
        if not found:
            continue
        both = [each for each in found if each.run.seed in base]
        of_base = sum(base[each.run.seed] for each in both)
        own = sum(each.cost.generated_tokens for each in both)
        yield ArmCost(
            arm,
            steps=fmean(each.cost.steps for each in found),
            generated_tokens=fmean(each.cost.generated_tokens for each in found),
            collecting_tokens=fmean(each.cost.collecting_tokens for each in found),
            against_base=own / of_base if of_base else None,
        )


def _spreads(plan: Plan, estimates: Sequence[Estimate]) -> Iterator[Spread]:
    """Yield what makes the spread of every change, where seeds are crossed and all runs are in."""
    if plan.crossed is None:
        return
    for each in estimates:
        if each.quantity == "change" and len(each.per_run) == len(plan.seeds):
            parts = variance_components(list(each.per_run.values()), plan.crossed)
            components = {name: variance**0.5 for name, variance in parts.items()}
            yield Spread(each.arm, each.outcome, components)
