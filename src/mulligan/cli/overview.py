"""Commands that look around: at this machine, and at runs."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from mulligan.cli.console import console, print_json
from mulligan.cli.options import Json, Settings, find_run
from mulligan.cli.web import require_web_packages, web_address
from mulligan.config import load_recipe
from mulligan.interrupt import waiting

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

    with waiting("looking at this machine"):
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


def plan(
    recipe: Annotated[Path, typer.Argument(help="A recipe, such as recipes/countdown_24gb.yaml.")],
    settings: Settings = None,
    gib: Annotated[
        float | None, typer.Option("--gib", help="Memory of a GPU that this machine lacks, in GiB.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what memory each stage needs, and what to change where it does not fit."""
    with waiting("looking at the model"):
        from mulligan.run.plan import make_plan

        made = make_plan(load_recipe(recipe, settings or ()), gib)
    if as_json:
        print_json(asdict(made))
        return
    table = Table(box=None, pad_edge=False)
    for title in ("stage", "what", "GiB"):
        table.add_column(title, justify="right" if title == "GiB" else "left")
    for stage in made.stages:
        for number, (what, size) in enumerate((*stage.parts, ("together", stage.total))):
            table.add_row("" if number else stage.stage, what, f"{size / 2**30:.1f}")
    console.print(f"{made.parameters / 1e9:.2f}B weights, {made.trained / 1e9:.2f}B trained")
    console.print(table)
    if made.available is not None:
        verdict = "fits" if made.fits else "does not fit"
        console.print(f"{verdict}: {made.peak / 2**30:.1f} of {made.available / 2**30:.1f} GiB")
    else:
        console.print(f"The memory of device {made.device!r} is not known: give --gib.")
    for setting in made.advice:
        console.print(f"  try {setting}", markup=False, highlight=False)
    if not made.fits:
        raise typer.Exit(1)


def runs(folder: Folder = Path("runs"), as_json: Json = False) -> None:
    """List runs: state, progress, time left and headline figure."""
    from mulligan.report.live.overview import print_runs
    from mulligan.report.live.status import find_runs, read_status

    with waiting("reading the runs"):
        statuses = [read_status(run) for run in find_runs(folder)]
    if as_json:
        print_json([asdict(status) for status in statuses])
    else:
        print_runs(statuses, folder, console)


def compare(
    first: Annotated[
        Path, typer.Argument(help="A run, or a file of its rows (.json).", metavar="RUN")
    ],
    others: Annotated[
        list[Path], typer.Argument(help="Runs to compare with it.", metavar="RUN...")
    ],
    as_json: Json = False,
) -> None:
    """Compare runs side by side, paired on the problems that they share."""
    from mulligan.report.compare import compare as compare_runs
    from mulligan.report.compare import print_comparison

    found = [
        each if each.suffix == ".json" else find_run(each, None, Path("runs"))[1].path
        for each in (first, *others)
    ]
    with waiting("comparing the runs"):
        compared = compare_runs(found)
    if as_json:
        print_json(asdict(compared))
    else:
        print_comparison(compared, console)


def watch(
    folder: Folder = Path("runs"),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any free one.")] = 8765,
    host: Annotated[
        str, typer.Option("--host", help="The address to serve at; other machines need 0.0.0.0.")
    ] = "127.0.0.1",
) -> None:
    """Follow runs on a web page: curves, episodes, comparisons. Read-only."""
    from mulligan.report.live.status import find_runs

    require_web_packages("watch")
    from mulligan.report.live.server import LOOPBACK, make_server, open_port

    find_runs(folder)  # a missing folder is an error before anything is served
    listening = open_port(host, port)
    address = web_address(host, listening)
    console.print(f"{address} (Ctrl-C stops it)", highlight=False)
    if host not in LOOPBACK:
        console.print("Everyone who can reach this machine can read these runs.", style="yellow")
    make_server(folder, host).run(sockets=[listening])
