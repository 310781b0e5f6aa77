"""The result of a run in plain words, with its intervals, whichever way it came out."""

from collections.abc import Iterator, Mapping, Sequence

from mulligan.evaluation.scores import SCORE_TITLES
from mulligan.evaluation.tables import ControlDifference, Difference, Endpoint, LeakSplit, Table
from mulligan.report.inputs import RunContent
from mulligan.report.sheets import conclusion, percent, points


def summary(run: RunContent) -> Iterator[str]:
    """Yield what a report begins with: what was done, and what came out."""
    yield " ".join(_what_was_done(run))
    yield " ".join(_what_came_out(run.table))
    if run.table.endpoints:
        yield " ".join(_what_is_decided(run.table))


def is_warmed_up(run: RunContent) -> bool:
    """Whether the run has a supervised warm-up before the method."""
    return bool(run.warmup) or any(
        isinstance(run.settings.get(name), Mapping) for name in ("sft", "warmup")
    )


def evaluated(table: Table) -> str:
    """Say what was evaluated, and what several samples per problem mean for the intervals."""
    size = table.size("after") or table.size("before")
    if size is None:
        return ""
    per_problem = size.rows / size.problems
    if per_problem == 1:
        return f"{size.problems:,} held-out problems, one first try at each."
    return (
        f"{size.problems:,} held-out problems, {per_problem:.3g} first tries at each. Tries at one "
        "problem are alike, so the intervals of single rates are a little too narrow; those of "
        "differences resample whole problems and are not."
    )


def _what_was_done(run: RunContent) -> Iterator[str]:
    model, task = run.settings.get("model", "A model"), run.settings.get("task", "a task")
    if run.metrics:
        yield f"{model} was trained {_on_what(run)} its own failures at {task}."
    else:
        yield f"{model} is to be trained on {task}; no training step is recorded yet."
    if is_warmed_up(run):
        yield (
            "It was first warmed up by supervised training on generated conversations; that "
            "is not part of the method, and “before training” means after the warm-up."
        )


def _on_what(run: RunContent) -> str:
    """Say what training was for: the method's aim, or the objective that took its place."""
    train = run.settings.get("train")
    settings = train if isinstance(train, Mapping) else {}
    reward, learn = settings.get("reward", "verdict"), settings.get("learn", "reflection")
    if (reward, learn) == ("verdict", "reflection"):
        return "to write better reflections on"
    return f"with another objective than the method’s (reward: {reward}, learn: {learn}) on"


def _what_came_out(table: Table) -> Iterator[str]:
    before, after = (table.cell("after_reflection", when) for when in ("before", "after"))
    solved = table.difference("after_reflection")
    if before is None:
        yield "Nothing was evaluated yet."
    elif after is None or solved is None:
        yield (
            f"Before training, {percent(before.rate)} of {before.n:,} tries at held-out "
            f"problems are solved after reflection (95% interval {percent(before.low)} to "
            f"{percent(before.high)}). There is no evaluation after training yet."
        )
    else:
        yield from _what_reflection_adds(table)
        yield (
            f"Solved after reflection: {percent(before.rate)} before training, "
            f"{percent(after.rate)} after, {with_interval(solved)}."
        )
        if first := table.difference("first_try"):
            yield f"The first try changed by {with_interval(first)}."
        yield from _where_the_passes_are(table)


def _what_reflection_adds(table: Table) -> Iterator[str]:
    change = table.difference("reflection_over_nothing")
    before, after = (table.against("after_nothing", when) for when in ("before", "after"))
    if before and after and change:
        yield (
            "Compared with being asked again with nothing in between, reflecting adds "
            f"{with_interval(before)} before training and {with_interval(after)} after it: "
            f"a change of {with_interval(change)}."
        )


def _where_the_passes_are(table: Table) -> Iterator[str]:
    splits = {split.leaked: split for split in table.leak_splits if split.when == "after"}
    if True in splits and False in splits:
        stating, others = splits[True], splits[False]
        yield (
            f"After training, {_passing(stating)} retries pass where the reflection states a "
            f"passing answer; where it does not, {_passing(others)}, and of those same problems "
            f"{percent(others.passed_after_nothing / others.n)} when simply asked again. (The "
            "split is made after training, so it shows where the passes are, not their cause.)"
        )


def _passing(split: LeakSplit) -> str:
    passed = split.passed_after_reflection
    return f"{percent(passed / split.n)} ({passed:,} of {split.n:,})"


def _what_is_decided(table: Table) -> Iterator[str]:
    primary = [row for row in table.endpoints if row.role == "primary"]
    secondary = [row for row in table.endpoints if row.role == "secondary"]
    if primary:
        yield f"The primary endpoint: {_decisions(primary)}."
    if secondary:
        yield f"The secondary ones, adjusted for their number: {_decisions(secondary)}."
    yield (
        "Brackets are 95% intervals over problems, for this trained model only; they say nothing "
        "about what another seed would give."
    )


def _decisions(rows: Sequence[Endpoint]) -> str:
    return "; ".join(f"{SCORE_TITLES[row.name].lower()} {_decided(row)}" for row in rows)


def _decided(row: Endpoint) -> str:
    if row.conclusion == "undecided":
        return f"is undecided: interval [{points(row.low)}, {points(row.high)}]"
    if row.conclusion == "no difference":
        return f"shows no difference beyond ±{100 * row.margin:g} points (equivalence test)"
    return conclusion(row)


def with_interval(row: Difference | ControlDifference) -> str:
    """Return ``+4.5 points [+1.0 to +8.0]``."""
    return f"{points(row.difference)} points [{points(row.low)} to {points(row.high)}]"
