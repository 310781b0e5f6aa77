"""The result of a run in plain words, with its intervals, whichever way it came out."""

from collections.abc import Iterator, Mapping

from mulligan.evaluation.tables import ControlDifference, Difference, Table
from mulligan.report.inputs import RunContent
from mulligan.report.table import percent, points

Compared = Difference | ControlDifference


def summary(run: RunContent) -> Iterator[str]:
    """Yield what a report begins with: what was done, and what came out."""
    yield " ".join(_what_was_done(run))
    yield " ".join(_what_came_out(run.table))


def is_warmed_up(run: RunContent) -> bool:
    """Whether the run has a supervised warm-up before the method."""
    return bool(run.warmup) or isinstance(run.settings.get("sft"), Mapping)


def evaluated(table: Table) -> str:
    """Say what was evaluated, and what several samples a problem mean for the intervals."""
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
        yield f"{model} was trained to write better reflections on its own failures at {task}."
    else:
        yield f"{model} is to be trained on {task}; no training step is recorded yet."
    if is_warmed_up(run):
        yield (
            "It was first warmed up by supervised training on generated conversations; that is "
            "no part of the method, and “before training” means after the warm-up."
        )


def _what_came_out(table: Table) -> Iterator[str]:
    before, after = (table.cell("after_reflection", when) for when in ("before", "after"))
    solved = table.difference("after_reflection")
    if before is None:
        yield "Nothing was evaluated yet."
    elif after is None or solved is None:
        yield (
            f"Before training, {percent(before.rate)} of {before.n:,} tries at held-out problems "
            f"end solved after reflecting (95% interval {percent(before.low)} to "
            f"{percent(before.high)}). There is no evaluation after training yet."
        )
    else:
        yield (
            f"After reflecting it solves {percent(after.rate)} of held-out problems, and solved "
            f"{percent(before.rate)} before training: {with_interval(solved)}."
        )
        yield from _beside_it(table)


def _beside_it(table: Table) -> Iterator[str]:
    """Set the main result beside the other differences, and say which of them are none."""
    compared: dict[str, Compared | None] = {
        "solved after reflection": table.difference("after_reflection"),
        "gain from reflecting": table.difference("gain_with_second_chance"),
        "first try": table.difference("first_try"),
        "reflecting against asking again": next(
            (c for c in table.controls if (c.when, c.control) == ("after", "after_nothing")), None
        ),
    }
    known = {name: row for name, row in compared.items() if row is not None}
    if gain := known.get("gain from reflecting"):
        yield f"What reflecting adds to the first try changed by {with_interval(gain)};"
    if first := known.get("first try"):
        yield f"the first try itself by {with_interval(first)}."
    if control := known.get("reflecting against asking again"):
        yield (
            "After training, reflecting against merely being asked again makes "
            f"{with_interval(control)}."
        )
    yield _about_zero(known)


def _about_zero(known: Mapping[str, Compared]) -> str:
    """Say which intervals include zero, and which differences go the wrong way."""
    none = [name for name, row in known.items() if row.low <= 0 <= row.high]
    worse = [name for name, row in known.items() if row.high < 0]
    said = ["Brackets hold 95% intervals;"]
    if none:
        said.append(f"zero lies inside that of: {', '.join(none)}. This run shows nothing there.")
    else:
        said.append("none of them includes zero.")
    if worse:
        said.append(f"It got worse: {', '.join(worse)}.")
    return " ".join(said)


def with_interval(row: Compared) -> str:
    """Return ``+4.5 points [+1.0 to +8.0]``."""
    return f"{points(row.difference)} points [{points(row.low)} to {points(row.high)}]"
