"""The command line, in the words of the method."""

import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from mulligan.config import Recipe, load_recipe, override_recipe
from mulligan.errors import MulliganError
from mulligan.storage.atomic import remove_folder
from mulligan.storage.lock import hold
from mulligan.storage.run_folder import RunFolder

app = typer.Typer(
    help="A second chance for small language models, and learning from it: "
    "fail, reflect, retry, and when the retry passes, reward the reflection.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(width=None if sys.stdout.isatty() else 110)  # in a log, no table is cut short
errors = Console(stderr=True)

Settings = Annotated[
    list[str] | None,
    typer.Argument(help="Overrides, such as train.steps=40.", metavar="NAME=VALUE"),
]
Target = Annotated[Path, typer.Argument(help="A run folder or a recipe.", metavar="RUN_OR_RECIPE")]
Runs = Annotated[Path, typer.Option("--runs", help="Where run folders are made.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an existing run.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete an existing run first.")]

STOPPED = 130
"""Exit status of a run that was asked to stop, as shells have it for Ctrl-C."""


def main() -> None:
    """Run the command line; errors that a user can mend come as one message."""
    logging.basicConfig(
        level="WARNING",
        format="%(message)s",
        handlers=[RichHandler(console=errors, show_path=False, show_time=False)],
    )
    logging.getLogger("mulligan").setLevel("INFO")
    try:
        app()
    except MulliganError as error:
        from mulligan.report.markup import visible

        errors.print("[bold red]error[/]", end=" ")
        errors.print(visible(str(error)), markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)


@app.command()
def demo(runs: Runs = Path("runs"), resume: Resume = False, overwrite: Overwrite = False) -> None:
    """The whole method on a real model, on two CPU cores: about a quarter of an hour."""
    recipe = Path(__file__).parent / "recipes" / "demo.yaml"
    run(recipe, None, runs, resume, overwrite)


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe, such as recipes/demo.yaml.")],
    settings: Settings = None,
    runs: Runs = Path("runs"),
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """All stages of a recipe, into one run folder."""
    from mulligan.run.session import refuse_changed_settings
    from mulligan.run.stages import STAGES

    loaded = load_recipe(recipe, settings or ())
    folder = RunFolder(runs / loaded.name)
    if folder.path.exists() and any(folder.path.iterdir()):
        _refuse_other_folders(folder)
        if overwrite:
            _remove_run(folder)
        elif not resume:
            raise MulliganError(
                f"The run {folder.path} exists already. Go on with it by --resume, delete it by "
                "--overwrite, or choose another name by name=..."
            )
        elif folder.config.exists():
            refuse_changed_settings(folder, loaded)
    _run_stages(loaded, folder, [stage.name for stage in STAGES])
    _show_table(folder)
    console.print(f"The report lies at [bold]{folder.report}[/]")


@app.command()
def warmup(target: Target, settings: Settings = None, runs: Runs = Path("runs")) -> None:
    """Show the model the form of the task, supervised, where it is below the method's reach."""
    _stage(target, settings, runs, ["warmup"])


@app.command()
def collect(target: Target, settings: Settings = None, runs: Runs = Path("runs")) -> None:
    """Let the model try the training problems, and keep what it fails."""
    _stage(target, settings, runs, ["warmup", "collect"])


@app.command()
def train(target: Target, settings: Settings = None, runs: Runs = Path("runs")) -> None:
    """Reflect on the failures, retry, and reward the reflections that led to a pass."""
    _stage(target, settings, runs, ["train"])


@app.command()
def evaluate(target: Target, settings: Settings = None, runs: Runs = Path("runs")) -> None:
    """Measure first try, second try and controls, before training and, once trained, after."""
    from mulligan.run.session import stages_done

    folder = _stage(target, settings, runs, ["warmup", "evaluate-before"])
    if "train" in stages_done(folder):
        _stage(folder.path, None, runs, ["evaluate-after"])
    _show_table(folder)


@app.command()
def report(
    target: Target,
    runs: Runs = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
    figures: Annotated[
        Path | None, typer.Option("--figures", help="Write the figures there, as SVG files.")
    ] = None,
) -> None:
    """Write the page that a person reads, and print its table."""
    _, folder = _find(target, None, runs)
    if as_json:
        from mulligan.report.table import table, table_as_json

        sys.stdout.write(json.dumps(table_as_json(table(folder.path)), indent=1) + "\n")
        return
    if figures:
        from mulligan.report.export import export_figures

        for path in export_figures(folder.path, figures):
            console.print(f"wrote {path}", highlight=False)
        return
    from mulligan.report.page import write_report

    console.print(f"The report lies at [bold]{write_report(folder.path)}[/]")
    _show_table(folder)


@app.command()
def show(
    target: Target,
    count: Annotated[int, typer.Option("--count", "-n", help="How many episodes.")] = 3,
    runs: Runs = Path("runs"),
) -> None:
    """An episode or ten, in the terminal: failure, reflection, retry."""
    from mulligan.report.show import show_episodes

    _, folder = _find(target, None, runs)
    show_episodes(folder, count, console)


@app.command()
def tasks() -> None:
    """The tasks that are installed here."""
    from mulligan.tasks.registry import list_tasks

    for entry in list_tasks():
        console.print(f"[bold]{entry.name}[/]", f"({entry.package})", highlight=False)
        console.print(f"  {entry.summary}", markup=False, highlight=False)
        console.print(f"  options: {', '.join(entry.options)}", markup=False, highlight=False)
    console.print("and any file.py, file.jsonl or reasoning_gym:NAME", highlight=False)


@app.command()
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


@app.command("new-task")
def new_task(
    name: Annotated[str, typer.Argument(help="Name of the task, such as my_task.")],
    folder: Annotated[Path, typer.Option("--folder", help="Where to write it.")] = Path(),
) -> None:
    """Write a task file to start from, and its test; both work as they are."""
    from mulligan.tasks import scaffold

    for path in scaffold.new_task(name, folder):
        console.print(f"wrote {path}", highlight=False)


def _stage(
    target: Path, settings: Sequence[str] | None, runs: Path, names: Sequence[str]
) -> RunFolder:
    recipe, folder = _find(target, settings, runs)
    _run_stages(recipe, folder, names)
    return folder


def _find(target: Path, settings: Sequence[str] | None, runs: Path) -> tuple[Recipe, RunFolder]:
    """Return the recipe and run folder that a run or a recipe stands for."""
    from mulligan.run.session import recipe_of, refuse_changed_settings

    if target.is_dir():
        folder = RunFolder(target)
        if not folder.config.exists():
            raise MulliganError(f"{str(target)!r} is not a run: it has no config.yaml.")
        recipe = override_recipe(recipe_of(folder), settings or (), str(folder.config))
        refuse_changed_settings(folder, recipe)
        return recipe, folder
    recipe = load_recipe(target, settings or ())
    folder = RunFolder(runs / recipe.name)
    if folder.config.exists():
        refuse_changed_settings(folder, recipe)
    return recipe, folder


def _refuse_other_folders(folder: RunFolder) -> None:
    """Check that a folder is a run's; one killed at its very start holds hidden files only."""
    visible = [each for each in folder.path.iterdir() if not each.name.startswith(".")]
    if visible and not folder.config.exists():
        raise MulliganError(
            f"{folder.path} is not a run: it has no config.yaml, so it is left alone. "
            "Choose another name by name=..., or delete it yourself."
        )


def _remove_run(folder: RunFolder) -> None:
    """Delete a run that no process holds."""
    with hold(folder.path):
        remove_folder(folder.path)


def _run_stages(recipe: Recipe, folder: RunFolder, names: Sequence[str]) -> None:
    from mulligan.interrupt import StoppedEarly, StopRequest
    from mulligan.run.session import open_session
    from mulligan.run.stages import run_stages

    stop = StopRequest()
    try:
        with stop.listening(console), open_session(recipe, folder, console, stop) as session:
            run_stages(session, names)
    except StoppedEarly as reached:
        console.print(f"Stopped at {reached}; everything is saved. Go on with --resume.")
        raise typer.Exit(STOPPED) from None
    except KeyboardInterrupt:
        console.print("Stopped at once; what was saved before stays. Go on with --resume.")
        raise typer.Exit(STOPPED) from None


def _show_table(folder: RunFolder) -> None:
    from mulligan.report.table import print_table, table

    print_table(table(folder.path), console)
