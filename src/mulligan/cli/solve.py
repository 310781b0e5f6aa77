"""The command that answers a file of problems."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mulligan.cli.console import console
from mulligan.errors import MulliganError

if TYPE_CHECKING:
    from mulligan.serving.mulligan import Mulligan
    from mulligan.serving.solve_file import Tally

Source = Annotated[
    str,
    typer.Argument(
        help="A run folder, or a model: Hub id, folder, smollm2-135m.", metavar="RUN_OR_MODEL"
    ),
]
TaskName = Annotated[
    str | None, typer.Option("--task", help="What a recipe calls a task; the run's by default.")
]
TaskOptions = Annotated[
    str, typer.Option("--task-options", help='Its options as JSON: {"numbers": 3}.')
]
Tries = Annotated[
    int,
    typer.Option(
        "--tries", min=1, help="At most this many tries at a problem, the first included."
    ),
]
Url = Annotated[
    str | None,
    typer.Option("--url", help="Address of a server that generates instead, including /v1."),
]
ServedModel = Annotated[
    str | None,
    typer.Option("--model", help="That server's name for the model; RUN_OR_MODEL by default."),
]
KeyVariable = Annotated[
    str | None, typer.Option("--api-key-env", help="Variable that holds that server's key.")
]


def solve(
    source: Source,
    problems: Annotated[Path, typer.Argument(help="One problem per line: messages and given.")],
    out: Annotated[Path, typer.Option("--out", help="Where answers go, one per line.")],
    task: TaskName = None,
    task_options: TaskOptions = "{}",
    tries: Tries = 2,
    seed: Annotated[int | None, typer.Option("--seed", help="Draw other answers.")] = None,
    at_once: Annotated[
        int, typer.Option("--at-once", min=1, help="Problems sent to the engine together.")
    ] = 64,
    url: Url = None,
    model: ServedModel = None,
    api_key_env: KeyVariable = None,
) -> None:
    """Answer a file of problems: try, verify, reflect, retry. Run again, it continues."""
    from rich.progress import Progress

    from mulligan.serving.problems import read_problems
    from mulligan.serving.solve_file import solve_file

    with load(source, task, task_options, tries, url, model, api_key_env, seed) as mulligan:
        found = read_problems(mulligan.task, problems)
        with Progress(console=console) as bar:
            row = bar.add_task("solve", total=len(found))
            tally = solve_file(
                mulligan,
                found,
                out,
                at_once=at_once,
                progress=lambda done: bar.update(row, advance=done),
            )
    _show(tally, tries)
    console.print(f"Answers written to {out}", highlight=False)


def load(
    source: str,
    task: str | None,
    task_options: str,
    tries: int,
    url: str | None,
    model: str | None,
    api_key_env: str | None,
    seed: int | None = None,
) -> "Mulligan":
    """Load what a command answers with.

    Raises:
        MulliganError: an option is wrong, or there is no such run, model, task or server.
    """
    from mulligan.config import ServerEngine
    from mulligan.serving.mulligan import Mulligan

    server = None
    if url is not None:
        served = model or source
        server = ServerEngine(kind="server", url=url, model=served, api_key_env=api_key_env)
    return Mulligan.load(
        source,
        task=task,
        task_options=options_of(task_options) or None,
        tries=tries,
        seed=seed,
        server=server,
    )


def options_of(text: str) -> dict[str, Any]:
    """Return the options of a task from the command line.

    Raises:
        MulliganError: they are not a JSON object.
    """
    try:
        options = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MulliganError(f"--task-options should be a JSON object: {error}.") from error
    if not isinstance(options, dict):
        raise MulliganError(f"--task-options should be a JSON object, not {text}.")
    return options


def _show(tally: "Tally", tries: int) -> None:
    from rich.table import Table

    table = Table("", "problems", "share")
    for name, count in (
        ("solved at the first try", tally.first_try),
        (f"solved later, within {tries} tries", tally.later),
        ("wrong", tally.wrong),
        ("unreadable", tally.unreadable),
        ("not verified", tally.unverified),
    ):
        table.add_row(name, str(count), f"{count / tally.problems:.1%}")
    table.add_section()
    table.add_row("all", str(tally.problems), f"{tally.tokens} tokens")
    console.print(table)
