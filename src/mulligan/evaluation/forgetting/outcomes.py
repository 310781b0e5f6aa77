"""What items say about forgetting: scores, paired changes, and whether nothing changed."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean

from mulligan.evaluation.forgetting.drift import stages
from mulligan.evaluation.forgetting.records import (
    Change,
    Checkpoint,
    Conclusion,
    Estimate,
    Outcome,
    Pooled,
    Score,
)
from mulligan.evaluation.statistics import Resampled, holm, mcnemar, resample_pairs, wilson

LEAST_POOLED = 2_000
"""Items that an equivalence within 2 points takes; with fewer the answer is ``undecided``."""
ALPHA = 0.05

ByTask = Mapping[str, Sequence[Outcome]]


def by_task(outcomes: Sequence[Outcome]) -> ByTask:
    """Return the outcomes of each task, tasks in the order in which they come."""
    tasks: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        tasks.setdefault(outcome.task, []).append(outcome)
    return tasks


def scores(tasks: ByTask, checkpoints: Sequence[Checkpoint]) -> Iterator[Score]:
    """Yield the score of every checkpoint on every task."""
    for task, items in tasks.items():
        chance = fmean(item.chance for item in items)
        for checkpoint in checkpoints:
            passed, n = sum(item.passed[checkpoint] for item in items), len(items)
            interval = wilson(passed, n)
            yield Score(task, checkpoint, passed, n, chance, interval.low, interval.high)


def at_chance(items: Sequence[Outcome], checkpoint: Checkpoint = "original") -> bool:
    """Whether a checkpoint is not shown to beat guessing: its interval includes chance."""
    interval = wilson(sum(item.passed[checkpoint] for item in items), len(items))
    return interval.low <= fmean(item.chance for item in items)


def changes(tasks: ByTask, checkpoints: Sequence[Checkpoint]) -> list[Change]:
    """Return the paired change of each task between checkpoints, p-values corrected by Holm."""
    found = []
    for first, second in stages(checkpoints):
        flips = [_flips(items, first, second) for items in tasks.values()]
        plain = [mcnemar(lost, won) for lost, won in flips]
        for (task, items), (lost, won), p, corrected in zip(
            tasks.items(), flips, plain, holm(plain), strict=True
        ):
            difference = _estimate(_resampled(items, first, second))
            informative = not at_chance(items)
            found.append(
                Change(task, first, second, difference, lost, won, p, corrected, informative)
            )
    return found


def pooled(tasks: ByTask, checkpoints: Sequence[Checkpoint], margin: float) -> Iterator[Pooled]:
    """Yield the change over the items of all informative tasks, and whether it is none."""
    items = [item for each in tasks.values() if not at_chance(each) for item in each]
    if len(items) < 2:
        return
    for first, second in stages(checkpoints):
        resampled = _resampled(items, first, second)
        difference, p = _estimate(resampled), resampled.tost(margin)
        changed = mcnemar(*_flips(items, first, second))
        conclusion = _conclusion(len(items), p, difference, changed)
        yield Pooled(first, second, len(items), difference, margin, p, conclusion)


def _conclusion(n: int, p_equivalent: float, difference: Estimate, p: float) -> Conclusion:
    """Say what is shown; a difference that is shown and within the margin is equivalent."""
    if n < LEAST_POOLED:
        return "undecided"
    if p_equivalent < ALPHA:
        return "equivalent"
    shown = p < ALPHA and (difference.low > 0 or difference.high < 0)
    return "different" if shown else "undecided"


def _flips(items: Sequence[Outcome], first: Checkpoint, second: Checkpoint) -> tuple[int, int]:
    """Return how many items were lost and won."""
    lost = sum(item.passed[first] and not item.passed[second] for item in items)
    won = sum(item.passed[second] and not item.passed[first] for item in items)
    return lost, won


def _resampled(items: Sequence[Outcome], first: Checkpoint, second: Checkpoint) -> Resampled:
    return resample_pairs(
        [item.passed[first] for item in items],
        [item.passed[second] for item in items],
        [f"{item.task}/{item.id}" for item in items],  # tasks number their items alike
    )


def _estimate(resampled: Resampled) -> Estimate:
    interval = resampled.interval()
    return Estimate(interval.value, interval.low, interval.high)
