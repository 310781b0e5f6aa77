"""The page of a study: the answers, the table, a figure for each endpoint, and every run."""

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from mulligan.evaluation.scores import SCORE_TITLES
from mulligan.evaluation.trials import TITLES
from mulligan.report.layout import document, figure, grid, section, stacked
from mulligan.report.markup import Html, element
from mulligan.report.sheets import NOTHING, percent, points
from mulligan.report.texts import reason_name
from mulligan.storage.atomic import write_atomically
from mulligan.study.figure import changes_figure
from mulligan.study.show import answers, costs, heading, missing, number_text, spreads
from mulligan.study.table import Estimate, Quantity, StudyTable

_HOW_TO_READ = (
    "Each run trains a model of its own. Numbers are means over runs. An interval is the wider of "
    "two: Student’s t over the run means, and a bootstrap that draws runs and problems anew. "
    "Differences to the base are paired by seed and problem. The range under a change is "
    "where a new run is expected, at the stated level."
)
_CROSSED = (
    "Seeds are crossed, so these runs are not independent of each other: there are no intervals, "
    "only means and what makes the spread."
)


def write_page(table: StudyTable, path: Path) -> None:
    """Write the page of a study; the same table gives the same bytes.

    Raises:
        MulliganError: the page cannot be written.
    """
    write_atomically(path, document(table.name, *_sections(table)))


def _sections(table: StudyTable) -> Iterator[Html]:
    lede = (table.about, _size(table))
    yield element(
        "header",
        element("p", "Mulligan · a study", class_="kicker"),
        element("h1", table.name),
        *(element("p", text, class_="lede") for text in lede if text),
        *(element("p", text, class_="missing") for text in missing(table)),
    )
    said = [*answers(table), *spreads(table)]
    if said:
        yield section("What the endpoints say", *(element("p", each) for each in said))
    figures = [changes_figure(table, outcome) for outcome in (table.primary, *table.secondary)]
    about = [element("p", _HOW_TO_READ, class_="note")]
    if table.spreads:
        about.append(element("p", _CROSSED, class_="note"))
    yield section(
        "Figures",
        element("div", *(figure(each) for each in figures if each), class_="charts"),
        *about,
    )
    yield section("The table", *(part for arm in table.arms for part in _of_arm(table, arm)))
    if table.reasons:
        yield section("How errors change", _reasons(table))
    yield section("The runs", *(element("p", each) for each in costs(table)), _runs(table))


def _size(table: StudyTable) -> str:
    finished = sum(map(table.finished, table.arms))
    planned = len(table.runs)
    return (
        f"{len(table.arms)} arms, {finished} of {planned} runs, {table.problems:,} problems each. "
        f"Intervals hold {100 * table.level:.3g}%."
    )


def _of_arm(table: StudyTable, arm: str) -> Iterator[Html]:
    quantities: tuple[Quantity, ...] = (
        "before",
        "after",
        "change",
        "against_base",
        "after_against_base",
    )
    if arm == table.base:
        quantities = quantities[:3]
    rows = []
    for outcome in table.outcomes:
        cells = [table.estimate(arm, outcome, quantity) for quantity in quantities]
        if any(cells):
            rows.append((SCORE_TITLES[outcome], *(_cell(cell) for cell in cells)))
    against = (f"Change against {table.base}, points", f"After, against {table.base}, points")
    headings = ("", "Before", "After", "Change, points", *against)
    yield element("h3", heading(table, arm))
    yield grid(headings[: len(quantities) + 1], rows, "rates")


def _cell(estimate: Estimate | None) -> Html:
    if estimate is None:
        return stacked(NOTHING)
    number = number_text(estimate.quantity, estimate.outcome)
    notes = []
    if estimate.low is not None and estimate.high is not None:
        notes.append(f"{number(estimate.low)} to {number(estimate.high)}")
    if estimate.quantity == "change" and estimate.new_low is not None:
        assert estimate.new_high is not None
        notes.append(f"new run {number(estimate.new_low)} to {number(estimate.new_high)}")
    return stacked(number(estimate.mean), *notes)


def _reasons(table: StudyTable) -> Html:
    rows = [
        (
            f"{each.arm}, {TITLES[each.column].lower()}: {reason_name(each.reason)}",
            percent(each.before),
            percent(each.after),
            stacked(
                points(fmean(each.per_run)),
                *(
                    [f"{points(each.low)} to {points(each.high)}"]
                    if each.low is not None and each.high is not None
                    else []
                ),
            ),
        )
        for each in table.reasons
    ]
    return grid(("Share of all problems", "Before", "After", "Change, points"), rows, "rates")


def _runs(table: StudyTable) -> Html:
    rows = []
    for run in table.runs:
        changes = [
            estimate.per_run.get(run.seed) if estimate else None
            for outcome in (table.primary, *table.secondary)
            for estimate in [table.estimate(run.arm, outcome, "change")]
        ]
        costs = (run.steps, run.generated_tokens, run.training_seconds)
        rows.append(
            (
                f"{run.arm}, seed {run.seed}",
                *(NOTHING if value is None else points(value) for value in changes),
                *(NOTHING if cost is None else f"{cost:,.0f}" for cost in costs),
            )
        )
    titles = [SCORE_TITLES[outcome] for outcome in (table.primary, *table.secondary)]
    headings = ("Change, points", *titles, "Steps", "Generated tokens", "Training, s")
    return grid(headings, rows, "plain")
