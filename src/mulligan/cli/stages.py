"""Commands that do the work of a run: all of its stages, or one of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from mulligan.cli.console import STOPPED, console
from mulligan.cli.options import Overwrite, Resume, Runs, Settings, Target, find_run
from mulligan.cli.results import show_table
from mulligan.config import Recipe, ServerEngine, load_recipe
from mulligan.errors import MulliganError
from mulligan.storage.atomic import remove_folder
from mulligan.storage.lock import hold
from mulligan.storage.run_folder import RunFolder

if TYPE_CHECKING:
    from mulligan.run.session import Session


def demo(runs: Runs = Path("runs"), resume: Resume = False, overwrite: Overwrite = False) -> None:
    """Run the whole method on a real model, on two CPU cores: ten minutes or a little more."""
    recipe = Path(__file__).parents[1] / "recipes" / "demo.yaml"
    run(recipe, None, runs, resume, overwrite)


def run(
    recipe: Annotated[Path, typer.Argument(help="A recipe, such as recipes/demo.yaml.")],
    settings: Settings = None,
    runs: Runs = Path("runs"),
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Run all stages of a recipe, into one run folder."""
    from mulligan.run.session import format_of, refuse_changed_settings
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
            loaded = load_recipe(recipe, settings or (), format_of(folder))
            refuse_changed_settings(folder, loaded)
    _run_stages(loaded, folder, [stage.name for stage in STAGES])
    show_table(folder.path)
    console.print(f"Report written to [bold]{folder.report}[/]")


def warmup(target: Target, settings: Settings = None, runs: Runs = Path("runs")) -> None:
    """Teach the model the form of the task by supervised training, where the recipe says so."""
    _run_some(target, settings, runs, ["warmup"])


def collect(target: Target, settings: Settings = None, runs: Runs = Path("runs")) -> None:
    """Let the model try the training problems, and keep what it fails."""
    _run_some(target, settings, runs, ["warmup", "collect"])


def train(target: Target, settings: Settings = None, runs: Runs = Path("runs")) -> None:
    """Reflect on the failures, retry, and reward the reflections that led to a pass."""
    recipe, _ = find_run(target, settings, runs)
    before = ["warmup", "collect"] if recipe.collect.store else []  # collecting is copying then
    _run_some(target, settings, runs, [*before, "train"])


def evaluate(
    target: Target,
    settings: Settings = None,
    runs: Runs = Path("runs"),
    engine: Annotated[
        str | None, typer.Option("--engine", help="`server`: also evaluate another model.")
    ] = None,
    url: Annotated[
        str | None, typer.Option("--url", help="Its server's address, including /v1.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="The server's name for that model.")
    ] = None,
    api_key_env: Annotated[
        str | None, typer.Option("--api-key-env", help="Variable that holds the server's key.")
    ] = None,
    answer_tokens: Annotated[
        int, typer.Option("--answer-tokens", min=1, help="That model's longest answer.")
    ] = 1024,
    sweep_problems: Annotated[
        int, typer.Option("--sweep-problems", min=1, help="Problems for choosing how to ask it.")
    ] = 100,
) -> None:
    """Measure first try, second try and controls, before training and, once trained, after.

    With --engine server, --url and --model, measure another, bigger model on the same problems:
    with the best of a sweep of instructions and temperatures, found on other problems.
    """
    if engine is not None or url is not None or model is not None:
        if engine != "server" or url is None or model is None:
            raise MulliganError(
                "Another model is evaluated with all of --engine server, --url and --model."
            )
        server = ServerEngine(kind="server", url=url, model=model, api_key_env=api_key_env)
        _evaluate_other(target, runs, server, answer_tokens, sweep_problems)
        return
    from mulligan.run.session import stages_done

    folder = _run_some(target, settings, runs, ["warmup", "evaluate-before"])
    if "train" in stages_done(folder):
        _run_some(folder.path, None, runs, ["evaluate-after"])
    show_table(folder.path)


def _evaluate_other(
    target: Path, runs: Path, server: ServerEngine, answer_tokens: int, sweep_problems: int
) -> None:
    from mulligan.run.other_model import OtherModel, evaluate_other_model

    recipe, folder = find_run(target, None, runs)
    with holding(recipe, folder) as session:
        sweep = evaluate_other_model(session, OtherModel(server, answer_tokens, sweep_problems))
    for tried in sweep.tried:
        best = " (the best, evaluated)" if tried is sweep.best else ""
        console.print(
            f"{sweep.split}: {tried.passed} of {tried.n} at temperature {tried.temperature:g}, "
            f"{tried.instruction or 'asked as the run asks'!r}{best}",
            markup=False,
            highlight=False,
        )
    show_table(folder.path)


def _run_some(
    target: Path, settings: Sequence[str] | None, runs: Path, names: Sequence[str]
) -> RunFolder:
    recipe, folder = find_run(target, settings, runs)
    _run_stages(recipe, folder, names)
    return folder


def _run_stages(recipe: Recipe, folder: RunFolder, names: Sequence[str]) -> None:
    from mulligan.run.stages import run_stages

    with holding(recipe, folder) as session:
        run_stages(session, names)


@contextmanager
def holding(
    recipe: Recipe, folder: RunFolder, said: Console = console, go_on: str = "--resume"
) -> "Iterator[Session]":
    """Hold a run for a command; one that is asked to stop says so and how to go on."""
    from mulligan.interrupt import StoppedEarly, StopRequest
    from mulligan.run.session import open_session

    stop = StopRequest()
    try:
        with stop.listening(said), open_session(recipe, folder, said, stop) as session:
            yield session
    except StoppedEarly as reached:
        said.print(f"Stopped at {reached}; everything is saved. Go on with {go_on}.")
        raise typer.Exit(STOPPED) from None
    except KeyboardInterrupt:
        said.print(f"Stopped at once; what was saved before stays. Go on with {go_on}.")
        raise typer.Exit(STOPPED) from None


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
