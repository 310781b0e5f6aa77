"""The table of a run: computed from its evaluation files, as JSON, and for the terminal."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from mulligan.config import read_yaml
from mulligan.errors import MulliganError
from mulligan.evaluation.results import compute
from mulligan.evaluation.rows import Rows, read_rows
from mulligan.evaluation.tables import (
    LeakRate,
    Size,
    Table,
)
from mulligan.evaluation.trials import COLUMNS, plan_of, read_trials
from mulligan.report.markup import visible
from mulligan.report.sheets import Sheet, Value, sheets
from mulligan.storage.run_folder import RunFolder


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

    A difference's ``column`` is its ``name``, as version 0.1.0 called it. ``parts`` has a table
    for each part of a mix of tasks.
    """
    found: dict[str, Any] = {
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
    parts = {name: _without_endpoints(part) for name, part in made.parts}
    return found | ({"parts": parts} if parts else {})


def _without_endpoints(part: Table) -> dict[str, Any]:
    """Return the table of a part; what the recipe declares to be tested is tested on the whole."""
    return {key: value for key, value in table_as_json(part).items() if key != "endpoints"}


def _without_when(row: LeakRate | Size) -> dict[str, Any]:
    return {key: value for key, value in asdict(row).items() if key != "when"}


def print_table(made: Table, console: Console) -> None:
    """Print the table for a terminal; with every control it is at most 104 columns wide."""
    for sheet in sheets(made):
        console.print(_painted(sheet), "")
        if sheet.note:
            console.print(Text(sheet.note, style="dim"), "")


def _painted(sheet: Sheet) -> RichTable:
    shown = RichTable(
        title=Text(visible(sheet.title), style="bold"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    shown.add_column("", no_wrap=True)
    for heading in sheet.headings:
        shown.add_column(Text(visible(heading)), justify="right", no_wrap=True)
    for row in sheet.rows:
        texts = [Text(_text(value)) for value in row.values]
        shown.add_row(Text(row.title), *texts, style="bold" if row.is_headline else None)
    return shown


def _text(value: Value) -> str:
    """Return ``36.2% [31.7 to 41.1]``; a count where there is no interval: ``70.0% (30 of 43)``."""
    if value.interval:
        return f"{value.text} [{value.interval}]"
    return f"{value.text} ({value.note})" if value.note else value.text
