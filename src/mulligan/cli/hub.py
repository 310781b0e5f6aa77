"""The command that takes a trained model to the Hub."""

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from mulligan.cli.console import console
from mulligan.cli.options import Runs, Target, find_run
from mulligan.interrupt import waiting


def push(
    target: Target,
    to: Annotated[str, typer.Option("--to", help="Name of the model on the Hub: USER/NAME.")],
    runs: Runs = Path("runs"),
    private: Annotated[bool, typer.Option("--private", help="Make the model private.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write the folder RUN/hub, and upload nothing.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Add to a model that exists.")
    ] = False,
    with_failures: Annotated[
        bool, typer.Option("--with-failures", help="Upload problems and failed answers too.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before the upload.")] = False,
) -> None:
    """Upload a trained model with its card; the files are listed first."""
    from mulligan.run.hub import check_name, export, push
    from mulligan.storage.atomic import remove_folder

    check_name(to)
    recipe, run = find_run(target, None, runs)
    if dry_run:
        folder = run.path / "hub"
        remove_folder(folder)
        with waiting("writing the folder"):
            files = export(run, recipe, folder, with_failures)
        _list(files, folder)
        console.print(f"Written to [bold]{folder}[/]; nothing was uploaded.")
        return
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "hub"
        with waiting("writing the folder"):
            files = export(run, recipe, folder, with_failures)
        _list(files, folder)
        if not yes:
            typer.confirm(f"Upload these files to {to}?", abort=True)
        with waiting("uploading"):
            address = push(folder, to, private=private, overwrite=overwrite)
        console.print(address, highlight=False)


def _list(files: list[Path], folder: Path) -> None:
    for path in files:
        size = path.stat().st_size / 2**20
        console.print(f"{size:10.2f} MiB  {path.relative_to(folder)}", highlight=False)
