"""Commands that look around: at this machine, and at runs."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from mulligan.cli.console import console, print_json
from mulligan.cli.options import Json

Folder = Annotated[Path, typer.Argument(help="The folder that holds the runs.")]

_SIGNS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "missing": "[bold red]missing[/]"}


def doctor(
    runs: Annotated[Path, typer.Option("--runs", help="Where runs are to be written.")] = Path(
        "runs"
    ),
    server: Annotated[
        str | None,
        typer.Option("--server", help="Base URL of a server to try, such as http://host:8000/v1."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what this machine has and lacks for a run; exits with 1 if the demo cannot run."""
    from mulligan.report.markup import visible
    from mulligan.run.doctor import examine

    checks = examine(runs, server)
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        shown = Table(box=None, show_header=False, pad_edge=False)
        for check in checks:
            says = "\n".join(filter(None, [check.says, check.remedy]))
            shown.add_row(_SIGNS[check.level], check.name, Text(visible(says)))
        console.print(shown)
    if any(check.level == "missing" for check in checks):
        raise typer.Exit(1)


def runs(folder: Folder = Path("runs"), as_json: Json = False) -> None:
    """List runs: state, progress, time left and headline figure."""
    from mulligan.report.live.overview import print_runs
    from mulligan.report.live.status import find_runs, read_status

    statuses = [read_status(run) for run in find_runs(folder)]
    if as_json:
        print_json([asdict(status) for status in statuses])
    else:
        print_runs(statuses, folder, console)
