"""Arguments and options that several commands share, and the run that they stand for."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mulligan.config import Recipe, load_recipe, override_recipe
from mulligan.errors import MulliganError
from mulligan.storage.run_folder import RunFolder

Settings = Annotated[
    list[str] | None,
    typer.Argument(help="Overrides, such as train.steps=40.", metavar="NAME=VALUE"),
]
Target = Annotated[Path, typer.Argument(help="A run folder or a recipe.", metavar="RUN_OR_RECIPE")]
Runs = Annotated[Path, typer.Option("--runs", help="Where run folders are made.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an existing run.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete an existing run first.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def find_run(target: Path, settings: Sequence[str] | None, runs: Path) -> tuple[Recipe, RunFolder]:
    """Return the recipe and run folder that a run or a recipe stands for.

    Raises:
        MulliganError: the folder is not a run, or settings changed that may not.
    """
    from mulligan.run.session import format_of, recipe_of, refuse_changed_settings

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
        recipe = load_recipe(target, settings or (), format_of(folder))
        refuse_changed_settings(folder, recipe)
    return recipe, folder
