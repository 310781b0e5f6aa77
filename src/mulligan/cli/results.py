"""Commands that show what a run has come to."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from mulligan.cli.console import console, print_json
from mulligan.cli.options import Json, Runs, Target, find_run
from mulligan.config import Dtype
from mulligan.errors import MulliganError
from mulligan.interrupt import waiting
from mulligan.storage.run_folder import RunFolder


def report(
    target: Annotated[
        Path, typer.Argument(help="A run folder, a recipe, or a file of rows (.json).")
    ],
    runs: Runs = Path("runs"),
    as_json: Json = False,
    figures: Annotated[
        Path | None,
        typer.Option("--figures", help="Write the figures into this folder, as SVG files."),
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option("--rows", help="Write the evaluation without texts to this JSON file."),
    ] = None,
    forgetting: Annotated[
        Path | None,
        typer.Option(
            "--forgetting", help="Add what the run forgot to this JSON file, beside other runs."
        ),
    ] = None,
) -> None:
    """Write a run's report and print its table; for a file of rows, print the table."""
    is_rows = target.suffix == ".json"
    if is_rows and (rows or figures or forgetting):
        raise MulliganError(
            f"{target} holds rows; --rows, --figures and --forgetting need the folder of a run."
        )
    if forgetting:
        _publish(target, runs, forgetting)
        return
    place = target if is_rows else find_run(target, None, runs)[1].path
    if as_json:
        _print_as_json(place)
    elif rows:
        from mulligan.evaluation.rows import write_rows
        from mulligan.report.table import rows_of

        with waiting("writing the rows"):
            write_rows(rows_of(place), rows)
        console.print(f"wrote {rows}", highlight=False)
    elif figures:
        from mulligan.report.export import export_figures

        with waiting("drawing the figures"):
            paths = export_figures(place, figures)
        for path in paths:
            console.print(f"wrote {path}", highlight=False)
    else:
        if not is_rows:
            from mulligan.report.page import write_report

            with waiting("writing the report"):
                page = write_report(place)
            console.print(f"Report written to [bold]{page}[/]")
        show_table(place)


def _print_as_json(place: Path) -> None:
    """Print the table of a run's folder, with what the run forgot, or of a file of rows."""
    from mulligan.evaluation.forgetting.records import read_forgetting
    from mulligan.report.table import table, table_as_json

    forgotten = None if place.is_file() else read_forgetting(RunFolder(place).forgetting)
    measured = {"forgetting": asdict(forgotten)} if forgotten else {}
    with waiting("computing the table"):
        made = table_as_json(table(place))
    print_json(made | measured)


def _publish(target: Path, runs: Path, file: Path) -> None:
    from mulligan.report.published import publish

    recipe, run = find_run(target, None, runs)
    publish(run, recipe, file)
    console.print(f"wrote {file}", highlight=False)


def show(
    target: Target,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many episodes.")] = 3,
    runs: Runs = Path("runs"),
) -> None:
    """Print the newest episodes: failure, reflection, retry."""
    from mulligan.report.show import show_episodes

    _, folder = find_run(target, None, runs)
    show_episodes(folder, count, console)


def export(
    target: Target,
    to: Annotated[Path, typer.Option("--to", help="A folder that does not exist yet.")],
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge a LoRA adapter into its base.")
    ] = False,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float32 or bf16; as trained by default.")
    ] = None,
    runs: Runs = Path("runs"),
) -> None:
    """Write the trained model, or its LoRA adapter, in a form that transformers and vLLM load."""
    from mulligan.run.export_model import export_model

    types: dict[str | None, Dtype | None] = {
        None: None,
        "float32": "float32",
        "bf16": "bfloat16",
        "bfloat16": "bfloat16",
    }
    if dtype not in types:
        raise MulliganError(f"--dtype is {dtype!r}, but can be float32 or bf16.")
    recipe, run = find_run(target, None, runs)
    with waiting("writing the model"):
        checkpoint = export_model(run, recipe, to, merge=merge, dtype=types[dtype])
    console.print(f"wrote {to}, the model of {checkpoint}", highlight=False)


def show_table(target: Path) -> None:
    """Print the table of results of a run's folder, or of a file of rows."""
    from mulligan.report.table import print_table, table

    with waiting("computing the table"):
        made = table(target)
    print_table(made, console)
