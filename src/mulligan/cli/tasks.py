"""Commands about tasks: list them, check one, start a new one."""

from pathlib import Path
from typing import Annotated

import typer

from mulligan.cli.console import console


def tasks() -> None:
    """List the tasks that are installed."""
    from mulligan.tasks.registry import FORMS, list_tasks

    for entry in list_tasks():
        console.print(f"[bold]{entry.name}[/]", f"({entry.package})", highlight=False)
        console.print(f"  {entry.summary}", markup=False, highlight=False)
        console.print(f"  options: {', '.join(entry.options)}", markup=False, highlight=False)
    for form, meaning in FORMS:
        console.print(f"{form}: {meaning}", markup=False, highlight=False)


def validate(
    task: Annotated[str, typer.Argument(help="A task, as recipes name it.")],
    options: Annotated[
        list[str] | None, typer.Argument(help="Task options.", metavar="NAME=VALUE")
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", help="Problems of each split.")] = 100,
) -> None:
    """Check a task without a model: references pass, wrong answers do not, ids and splits hold."""
    from mulligan.config import as_settings
    from mulligan.tasks.registry import load_task
    from mulligan.verifiers.validate import passed, validate_task, validation_table

    checks = validate_task(load_task(task, as_settings(options or ())), count)
    console.print(validation_table(task, checks))
    if not passed(checks):
        raise typer.Exit(1)


def new_task(
    name: Annotated[str, typer.Argument(help="Name of the task, such as my_task.")],
    folder: Annotated[Path, typer.Option("--folder", help="Where to write it.")] = Path(),
) -> None:
    """Write a task file to start from, and its test; both work as they are."""
    from mulligan.tasks import scaffold

    for path in scaffold.new_task(name, folder):
        console.print(f"wrote {path}", highlight=False)
