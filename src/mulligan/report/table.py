"""The table of a run: computed from its evaluation files, as JSON, and for the terminal."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable

from mulligan.config import read_yaml
from mulligan.errors import MulliganError
from mulligan.evaluation.controls import CONTROLS
from mulligan.evaluation.results import compute
from mulligan.evaluation.rows import Rows, read_rows
from mulligan.evaluation.tables import (
    Cell,
    ControlDifference,
    Difference,
    LeakRate,
    Size,
    Table,
)
from mulligan.evaluation.trials import COLUMNS, TIMES, TITLES, plan_of, read_trials
from mulligan.storage.run_folder import RunFolder

NOTHING = "–"


def table(target: Path) -> Table:
    """Compute the table of a run's folder, or of a file of rows.

    Raises:
        MulliganError: there is no evaluation, or a row that cannot be read.
    """
    rows = read_rows(target) if target.is_file() else rows_of(target)
    return compute(rows.trials, rows.plan)


def rows_of(run: Path) -> Rows:
    """Read the rows of a run's folder, and what its recipe declared.

    Raises:
        MulliganError: the run has no evaluation, or a row that cannot be read.
    """
    trials = read_trials(run)
    if not any(trials.values()):
        raise MulliganError(
            f"{run} holds no evaluation: expected {run / 'evaluation' / 'before.jsonl'}. "
            f"Make one with `mulligan evaluate {run}`."
        )
    config = RunFolder(run).config
    settings = read_yaml(config) if config.exists() else {}
    return Rows(run.resolve().name, trials, plan_of(settings.get("evaluate")))


def table_as_json(made: Table) -> dict[str, Any]:
    """Return the table as plain JSON values, the way ``mulligan report --json`` prints it.

    A difference's ``column`` is its ``name``, as version 0.1.0 called it.
    """
    return {
        "cells": [asdict(cell) for cell in made.cells],
        "differences": [{**asdict(row), "column": row.name} for row in made.differences],
        "endpoints": [asdict(endpoint) for endpoint in made.endpoints],
        "controls": [asdict(control) for control in made.controls],
        "leak_rate": {leak.when: _without_when(leak) for leak in made.leak_rates},
        "leak_splits": [asdict(split) for split in made.leak_splits],
        "reasons": [asdict(reason) for reason in made.reasons],
        "flips": [asdict(flip) for flip in made.flips],
        "unjudged": [
            {"column": column, "when": size.when, "count": made.unjudged(column, size.when)}
            for size in made.sizes
            for column in COLUMNS
            if made.unjudged(column, size.when)
        ],
        "lengths": [asdict(length) for length in made.lengths],
        "entropies": [asdict(entropy) for entropy in made.entropies],
        "size": {size.when: _without_when(size) for size in made.sizes},
    }


def _without_when(row: LeakRate | Size) -> dict[str, Any]:
    return {key: value for key, value in asdict(row).items() if key != "when"}


def print_table(made: Table, console: Console) -> None:
    """Print the table for a terminal of 100 columns or more."""
    console.print(_main_table(made))
    if made.controls:
        console.print(_control_table(made))
    console.print(_side_table(made))


def _main_table(made: Table) -> RichTable:
    shown = _grid("Solved, with 95% intervals", "", *_headings(), "difference, points")
    for column in COLUMNS:
        cells = [made.cell(column, when) for when in TIMES]
        if any(cells):
            texts = [rate_text(cell) for cell in cells]
            shown.add_row(TITLES[column], *texts, difference_text(made.difference(column)))
    against = {row.when: row for row in made.controls if row.control == "after_nothing"}
    added = [difference_text(against.get(when)) for when in TIMES]
    change = difference_text(made.difference("reflection_over_nothing"))
    shown.add_row("What reflection adds", *added, change, style="bold")
    gains = [gain_text(made, when) for when in TIMES]
    difference = difference_text(made.difference("gain_with_second_chance"))
    shown.add_row("Gain from reflecting", *gains, difference, style="bold")
    return shown


def _control_table(made: Table) -> RichTable:
    shown = _grid("After reflection minus each control, points", "", *_headings())
    for control in (each.column for each in CONTROLS):
        rows = {row.when: row for row in made.controls if row.control == control}
        if rows:
            shown.add_row(TITLES[control], *(difference_text(rows.get(when)) for when in TIMES))
    return shown


def _side_table(made: Table) -> RichTable:
    shown = _grid("Beside the table", "", *_headings())
    leaks = {row.when: row for row in made.leak_rates}
    shown.add_row(
        "Reflections that contain a passing answer", *(rate_text(leaks.get(w)) for w in TIMES)
    )
    shown.add_row(
        "First tries that cannot be read as an answer",
        *(share_text(made.count("first_try", w, "unparseable"), made.size(w)) for w in TIMES),
    )
    shown.add_row("Answers left out: the verifier broke", *(unjudged_text(made, w) for w in TIMES))
    shown.add_row("Problems and first tries", *(size_text(made.size(w)) for w in TIMES))
    return shown


def _headings() -> Iterator[str]:
    return (f"{when} training" for when in TIMES)


def _grid(title: str, first: str, *headings: str) -> RichTable:
    shown = RichTable(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    shown.add_column(first, no_wrap=True)
    for heading in headings:
        shown.add_column(heading, justify="right", no_wrap=True)
    return shown


def percent(rate: float) -> str:
    """Return a fraction as ``36.2%``."""
    return f"{100 * rate:.1f}%"


def points(difference: float) -> str:
    """Return a difference of fractions in percentage points, with its sign: ``+4.5``, ``−1.0``."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in {"+0.0", "-0.0"} else text.replace("-", "−")


def rate_text(row: Cell | LeakRate | None) -> str:
    """Return ``36.2% [31.7 to 41.1]``, or a dash where there is no rate."""
    if row is None:
        return NOTHING
    return f"{percent(row.rate)} [{100 * row.low:.1f} to {100 * row.high:.1f}]"


def difference_text(row: Difference | ControlDifference | None) -> str:
    """Return ``+4.5 [+1.0 to +8.0]``, or a dash where there is no difference."""
    if row is None:
        return NOTHING
    return f"{points(row.difference)} [{points(row.low)} to {points(row.high)}]"


def gain_text(made: Table, when: str) -> str:
    """Return how many points reflection adds to the first try at one time, or a dash."""
    first, second = made.cell("first_try", when), made.cell("after_reflection", when)
    return points(second.rate - first.rate) if first and second else NOTHING


def share_text(count: int, size: Size | None) -> str:
    """Return ``40 of 400``, or a dash where nothing was evaluated."""
    return f"{count:,} of {size.rows:,}" if size else NOTHING


def unjudged_text(made: Table, when: str) -> str:
    """Return how many answers of all columns a broken verifier left unjudged."""
    if made.size(when) is None:
        return NOTHING
    return f"{sum(made.unjudged(column, when) for column in COLUMNS):,}"


def size_text(size: Size | None) -> str:
    """Return ``400 and 800``: problems, and first tries at them."""
    return f"{size.problems:,} and {size.rows:,}" if size else NOTHING
