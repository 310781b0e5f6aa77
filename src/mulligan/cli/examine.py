"""The command that asks finished runs a question of research."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mulligan.cli.console import console, print_json
from mulligan.cli.options import Json, Runs, find_run
from mulligan.cli.stages import holding
from mulligan.errors import MulliganError

if TYPE_CHECKING:
    from mulligan.study.examine.pooling import Quantity


def examine(
    question: Annotated[
        str,
        typer.Argument(
            help="right_answers, budget, worth, reflections or curve.", metavar="QUESTION"
        ),
    ],
    targets: Annotated[
        list[Path], typer.Argument(help="Finished runs, with their weights.", metavar="RUN...")
    ],
    runs: Runs = Path("runs"),
    problems: Annotated[
        int, typer.Option("--problems", min=1, help="Problems to ask, of the evaluation's split.")
    ] = 200,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Write the pooled numbers to this file, the rows beside it."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask finished runs a question, and pool what they say: docs/studies.md lists the questions."""
    from mulligan.study.examine.examination import (
        as_json as plain,
    )
    from mulligan.study.examine.examination import (
        examine as pool,
    )
    from mulligan.study.examine.examination import (
        rows_of_run,
        write_examination,
    )
    from mulligan.study.examine.questions import find_question

    asked, found = find_question(question), {}
    names = [target.name for target in targets]
    if twice := [name for name in names if names.count(name) > 1]:
        raise MulliganError(f"Two runs are called {twice[0]!r}: ask each run once.")
    for target in targets:
        recipe, folder = find_run(target, None, runs)
        with holding(recipe, folder) as session:
            found[folder.path.name] = rows_of_run(session, asked, problems)
    made = pool(asked, problems, found)
    if out is not None:
        write_examination(made, out, f"mulligan examine {question} RUN... --problems {problems}")
    if as_json:
        print_json(plain(made))
    else:
        _print(made.quantities)


def _print(quantities: "Sequence[Quantity]") -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for title in ("", "", "mean", "interval"):
        table.add_column(title, justify="left" if not title else "right")
    for each in quantities:
        interval = "" if each.low is None else f"[{each.low:.4g} to {each.high:.4g}]"
        table.add_row(each.says, each.when, f"{each.mean:.4g}", interval)
    console.print(table)
