"""The command that measures what training cost."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mulligan.cli.console import console, error_console, print_json
from mulligan.cli.options import Json, Runs, Target, find_run
from mulligan.cli.stages import holding
from mulligan.interrupt import waiting


def forget(
    target: Target,
    runs: Runs = Path("runs"),
    tasks: Annotated[
        str,
        typer.Option(
            "--tasks",
            help="Comma-separated: tasks of this package, reasoning_gym:NAME, tasks of lm-eval, "
            "mmlu_dev, bigbench:NAME, or elsewhere for a choice of them.",
        ),
    ] = "",
    include_path: Annotated[
        Path | None,
        typer.Option("--include_path", help="A folder of task files in lm-eval's format."),
    ] = None,
    items: Annotated[int, typer.Option("--items", min=2, help="Items of each task.")] = 300,
    prompts: Annotated[int, typer.Option("--prompts", min=2, help="The run's own problems.")] = 48,
    tokens: Annotated[int, typer.Option("--tokens", min=2, help="Tokens of English text.")] = 8192,
    margin: Annotated[
        float, typer.Option("--margin", min=0.01, help="Smaller changes, in points, count as none.")
    ] = 2.0,
    as_json: Json = False,
) -> None:
    """Measure what a run's model forgot: after the warm-up, and after training."""
    from mulligan.report.forgetting import print_forgetting
    from mulligan.report.page import write_report
    from mulligan.run.forget import Asked, forget

    recipe, folder = find_run(target, None, runs)
    names = tuple(filter(None, (name.strip() for name in tasks.split(","))))
    asked = Asked(names, items, prompts, tokens, margin / 100, include_path)
    said = error_console if as_json else console
    with holding(recipe, folder, said, go_on="the same command") as session:
        measured = forget(session, asked)
        with waiting("writing the report"):
            write_report(folder.path)
    if as_json:
        print_json(asdict(measured))
    else:
        print_forgetting(measured, console)
        console.print(f"Report written to [bold]{folder.report}[/]")
