"""The list of runs, in the terminal."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mulligan.report.live.status import RunStatus, headline_text, progress_text, time_text
from mulligan.report.markup import visible

_STYLES = {"running": "green", "stopped": "yellow", "finished": "", "unreadable": "red"}


def print_runs(statuses: Sequence[RunStatus], folder: Path, console: Console) -> None:
    """Print a line for each run, and what is wrong with those that cannot be read."""
    if not statuses:
        console.print(f"No runs in {folder}. `mulligan demo` makes one.", highlight=False)
        return
    shown = Table(box=box.SIMPLE_HEAD)
    for heading in ("run", "state", "progress", "left", "task", "model", "change by training"):
        shown.add_column(heading)
    for status in statuses:
        shown.add_row(
            Text(visible(status.name), style="bold"),
            Text(status.state, style=_STYLES[status.state]),
            progress_text(status),
            time_text(status.seconds_left),
            Text(visible(status.task)),
            Text(visible(status.model)),
            headline_text(status),
        )
    console.print(shown)
    for status in statuses:
        if status.problem:
            console.print(Text(f"{visible(status.name)}: {visible(status.problem)}"))
