"""Commands that show what a run has come to."""

from pathlib import Path
from typing import Annotated

import typer

from mulligan.cli.console import console, print_json
from mulligan.cli.options import Json, Runs, Target, find_run
from mulligan.storage.run_folder import RunFolder


def report(
    target: Target,
    runs: Runs = Path("runs"),
    as_json: Json = False,
    figures: Annotated[
        Path | None, typer.Option("--figures", help="Write the figures there, as SVG files.")
    ] = None,
) -> None:
    """Write the report of a run, and print its table."""
    _, folder = find_run(target, None, runs)
    if as_json:
        from mulligan.report.table import table, table_as_json

        print_json(table_as_json(table(folder.path)))
        return
    if figures:
        from mulligan.report.export import export_figures

        for path in export_figures(folder.path, figures):
            console.print(f"wrote {path}", highlight=False)
        return
    from mulligan.report.page import write_report

    console.print(f"Report written to [bold]{write_report(folder.path)}[/]")
    show_table(folder)


def show(
    target: Target,
    count: Annotated[int, typer.Option("--count", "-n", help="How many episodes.")] = 3,
    runs: Runs = Path("runs"),
) -> None:
    """Print the newest episodes: failure, reflection, retry."""
    from mulligan.report.show import show_episodes

    _, folder = find_run(target, None, runs)
    show_episodes(folder, count, console)


def show_table(folder: RunFolder) -> None:
    """Print a run's table of results."""
    from mulligan.report.table import print_table, table

    print_table(table(folder.path), console)
