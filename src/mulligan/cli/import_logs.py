"""The command that takes failures from production into a store."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from mulligan.cli.console import console
from mulligan.cli.solve import TaskOptions, options_of

SHOWN = 20
"""Rows that cannot be read whose reason is printed; of the others only the number is."""


def import_(
    logs: Annotated[Path, typer.Argument(help="Chat messages and answers, one row per line.")],
    task: Annotated[str, typer.Option("--task", help="Verifies the answers again.")],
    into: Annotated[Path, typer.Option("--into", help="Folder of the store; made if missing.")],
    task_options: TaskOptions = "{}",
    redact: Annotated[
        list[str] | None,
        typer.Option("--redact", help="Another pattern of secrets (a regular expression)."),
    ] = None,
) -> None:
    """Take failed answers out of logs, without secrets, for `collect.store` of a recipe."""
    from mulligan.report.markup import visible
    from mulligan.serving.import_logs import import_logs
    from mulligan.serving.redact import Redactor
    from mulligan.tasks.registry import load_task
    from mulligan.verifiers.pool import verifier_for

    redactor = Redactor(redact or ())
    found = load_task(task, options_of(task_options))
    with verifier_for(found) as verifier, _counting(found.name) as progress:
        done = import_logs(found, verifier, logs, into, redactor, progress)
    for why in done.unreadable[:SHOWN]:
        console.print(f"not read: {visible(why)}", markup=False, highlight=False)
    if rest := done.unreadable[SHOWN:]:
        numbers = ", ".join(why.partition(", line ")[2].partition(":")[0] for why in rest)
        console.print(f"not read, too: lines {numbers}", markup=False, highlight=False)
    for count, what in (
        (done.rows, "rows"),
        (done.stored, f"failures stored in {into}"),
        (done.passed, "passed when verified again, and were left out"),
        (done.repeated, "were in the store before"),
        (done.unverified, "could not be verified: kept apart in unverified.jsonl"),
        (done.redacted, "held secrets, which were taken out"),
        (len(done.unreadable), "could not be read"),
    ):
        console.print(f"{count:8d} {what}", markup=False, highlight=False)


@contextmanager
def _counting(task: str) -> Iterator[Callable[[int], None]]:
    """Show how many rows were verified; their number is known at the end."""
    from rich.progress import Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("verifying, {task.completed} rows"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        row = bar.add_task(task, total=None)
        yield lambda rows: bar.update(row, completed=rows)
