"""Commands about several runs: a study, and the seeds that follow from a recipe."""

from pathlib import Path
from typing import Annotated

import typer

from mulligan.cli.console import STOPPED, console, error_console, print_json
from mulligan.cli.options import Json, Runs, Settings
from mulligan.config import load_recipe


def study(
    study_file: Annotated[
        Path, typer.Argument(help="A study, such as studies/demo_seeds.yaml.", metavar="STUDY")
    ],
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs", "-j", min=1, help="Processes at once; if several, of one thread each."
        ),
    ] = 1,
    runs: Runs = Path("runs"),
    as_json: Json = False,
    table_only: Annotated[
        bool, typer.Option("--table", help="Run nothing; compute the table from what is there.")
    ] = False,
    accept: Annotated[
        Path | None,
        typer.Option(
            "--accept", help="Write the base arm's results on derived seeds to this file."
        ),
    ] = None,
    published: Annotated[
        Path | None,
        typer.Option(
            "--publish", help="Write the table and every verdict, small, into this folder."
        ),
    ] = None,
) -> None:
    """Run every arm with every seed, unless that is done, and pool the runs into one table."""
    from mulligan.interrupt import StoppedEarly, StopRequest
    from mulligan.study.acceptance import publish
    from mulligan.study.conduct import conduct, recompute
    from mulligan.study.published import write_published
    from mulligan.study.show import print_table, table_as_json

    said = error_console if as_json else console
    stop = StopRequest()
    try:
        if table_only:
            made = recompute(study_file, runs)
        else:
            with stop.listening(said):
                made = conduct(study_file, runs, jobs, said, stop)
    except (StoppedEarly, KeyboardInterrupt) as reached:
        said.print(f"Stopped ({reached}). The same command goes on from here.")
        raise typer.Exit(STOPPED) from None
    if accept:
        publish(made.plan, made.table, accept)
    if published:
        write_published(made, published)
    if as_json:
        print_json(table_as_json(made.table))
        return
    print_table(made.table, console)
    console.print(f"Page written to [bold]{made.folder.page}[/]")


def seeds(
    recipe: Annotated[Path, typer.Argument(help="A recipe, such as recipes/demo.yaml.")],
    settings: Settings = None,
    count: Annotated[int, typer.Option("--count", min=1, help="How many.")] = 10,
    attempt: Annotated[int, typer.Option("--attempt", min=1, help="Which set of seeds.")] = 1,
) -> None:
    """Print the seeds that follow from a recipe, so that nobody could have chosen them."""
    from mulligan.study.seeds import derived_seeds, recipe_digest

    digest = recipe_digest(load_recipe(recipe, settings or ()))
    for seed in derived_seeds(digest, count, attempt):
        console.print(seed, highlight=False)
