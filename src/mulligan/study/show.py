"""The table of a study for the terminal, and as JSON."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from mulligan.evaluation.scores import SCORE_TITLES
from mulligan.report.sheets import NOTHING, percent, points
from mulligan.study.statistics import smallest_detectable
from mulligan.study.table import Estimate, Quantity, StudyTable

RATES = ("before", "after")
"""Quantities that are rates; the others are differences."""

EQUAL_TOKENS = 0.05
"""Arms whose generated tokens differ from the base's by a larger fraction are not at equal cost."""


def table_as_json(table: StudyTable) -> dict[str, Any]:
    """Return the table as plain JSON values, the way ``mulligan study --json`` prints it."""
    return asdict(table) | {
        "finished": {arm: table.finished(arm) for arm in table.arms},
        "planned": {arm: table.planned(arm) for arm in table.arms},
    }


def print_table(table: StudyTable, console: Console) -> None:
    """Print the table, what the endpoints say, and which runs are missing."""
    for arm in table.arms:
        console.print(_of_arm(table, arm))
    for sentence in answers(table):
        console.print(sentence, markup=False, highlight=False)
    for sentence in (*spreads(table), *costs(table)):
        console.print(sentence, markup=False, highlight=False)
    for sentence in missing(table):
        console.print(sentence, markup=False, highlight=False, style="bold")


def _of_arm(table: StudyTable, arm: str) -> RichTable:
    """Return an arm's table; of the other arms the base's column says what was before."""
    quantities: dict[Quantity, str] = {"after": "after", "change": "change, points"}
    if arm == table.base:
        quantities = {"before": "before", **quantities}
    else:
        quantities["against_base"] = f"against {table.base}, points"
    shown = RichTable(
        title=heading(table, arm), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD
    )
    shown.add_column("", no_wrap=True)
    for name in quantities.values():
        shown.add_column(name, justify="right", no_wrap=True)
    for outcome in table.outcomes:
        cells = [table.estimate(arm, outcome, quantity) for quantity in quantities]
        if any(cells):
            shown.add_row(SCORE_TITLES[outcome], *(cell_text(cell) for cell in cells))
    return shown


def heading(table: StudyTable, arm: str) -> str:
    """Return an arm's name and how many of its runs are in the table."""
    base = ", the base" if arm == table.base and len(table.arms) > 1 else ""
    return f"{arm}{base}: {table.finished(arm)} of {table.planned(arm)} runs"


def cell_text(estimate: Estimate | None) -> str:
    """Return ``+4.5 [+1.0 to +8.0]``, a rate likewise, or a dash where there is none."""
    if estimate is None:
        return NOTHING
    number = number_text(estimate.quantity, estimate.outcome)
    if estimate.low is None or estimate.high is None:
        return number(estimate.mean)
    ends = (number(end).removesuffix("%") for end in (estimate.low, estimate.high))
    return f"{number(estimate.mean)} [{' to '.join(ends)}]"


def number_text(quantity: Quantity, outcome: str) -> Callable[[float], str]:
    """Return what writes a number: as a rate, or as a difference in points.

    An interval of few runs may reach beyond what a rate can be; it is cut off there.
    """
    is_rate = quantity in RATES and not outcome.startswith(("reflection_over", "gain_with"))
    if is_rate:
        return lambda rate: percent(min(max(rate, 0.0), 1.0))
    return lambda difference: points(min(max(difference, -1.0), 1.0))


def answers(table: StudyTable) -> Iterator[str]:
    """Yield what each endpoint says, the primary one first."""
    for outcome in (table.primary, *table.secondary):
        kind = "primary" if outcome == table.primary else "secondary"
        for estimate in table.estimates:
            if estimate.outcome == outcome and estimate.answer is not None:
                what = "change" if estimate.quantity == "change" else f"against {table.base}"
                title = SCORE_TITLES[outcome]
                yield f"{title} ({kind}), {estimate.arm}, {what}: {estimate.answer}"


def spreads(table: StudyTable) -> Iterator[str]:
    """Yield how much of the spread each crossed factor makes."""
    for spread in table.spreads:
        if spread.outcome in (table.primary, *table.secondary):
            parts = ", ".join(f"{name} {100 * sd:.1f}" for name, sd in spread.components.items())
            title = SCORE_TITLES[spread.outcome]
            yield f"Spread of the change, {title}, {spread.arm}: SD in points by {parts}"


def costs(table: StudyTable) -> Iterator[str]:
    """Yield what the training of each arm took, and whether it is that of the base."""
    for cost in table.costs:
        beside = ""
        if cost.arm != table.base and cost.against_base is not None:
            beside = f", {cost.against_base:.0%} of {table.base}'s"
            if abs(cost.against_base - 1) > EQUAL_TOKENS:
                beside += ": not at equal tokens"
        yield (
            f"Cost of training, {cost.arm}: {cost.steps:,.0f} steps, "
            f"{cost.generated_tokens:,.0f} generated tokens{beside} "
            f"({cost.collecting_tokens:,.0f} more to find failures)"
        )


def missing(table: StudyTable) -> Iterator[str]:
    """Yield which runs are not in the table, and why."""
    for run in table.runs:
        if run.failure is not None:
            yield f"Not in the table: {run.arm}, seed {run.seed}: {run.failure}"


def detectable(spread: Mapping[str, float], runs: int, level: float) -> Iterator[str]:
    """Yield the smallest effects that a design can see, from the spread that tuning has shown."""
    for outcome, sd in spread.items():
        smallest = smallest_detectable(sd, runs, level=level)
        yield (
            f"{SCORE_TITLES[outcome]}: with {runs} runs and an SD of {100 * sd:.1f} points "
            f"between runs, the smallest effect found four times in five is "
            f"{100 * smallest:.1f} points"
        )
