"""The model that a round, and the whole of a finished training, left."""

from pathlib import Path

from mulligan.config import Recipe
from mulligan.errors import MulliganError
from mulligan.interrupt import waiting
from mulligan.run.session import stages_done
from mulligan.storage.checkpoint import Checkpoints, verify
from mulligan.storage.run_folder import RunFolder


def round_folder(run: RunFolder, recipe: Recipe, number: int) -> RunFolder:
    """Return the folder of a round: the run's own where there is one round."""
    return run if recipe.rounds == 1 else run.round(number)


def last_round(run: RunFolder, recipe: Recipe) -> RunFolder:
    """Return the folder of a recipe's last round."""
    return round_folder(run, recipe, recipe.rounds)


def checkpoints_of(folder: RunFolder, recipe: Recipe) -> Checkpoints:
    """Return the checkpoints of a round."""
    return Checkpoints(folder.checkpoints, recipe.train.keep_checkpoints)


def trained_step(folder: RunFolder, recipe: Recipe) -> int:
    """Return the step whose weights a training ends with: the best on dev, else the last."""
    best = checkpoints_of(folder, recipe).best() if recipe.evaluate.every is not None else None
    return recipe.train.steps if best is None else best


def writes_model(recipe: Recipe) -> bool:
    """Whether a round ends with a whole model of its own rather than a checkpoint.

    It does where it is consolidated. The adapters of a later round would have no base that is a
    folder, so they are merged.
    """
    return recipe.consolidate is not None or (recipe.lora is not None and recipe.rounds > 1)


def ended_with(folder: RunFolder, recipe: Recipe) -> Path:
    """Return the model that a round ended with."""
    if writes_model(recipe):
        return folder.model
    return checkpoints_of(folder, recipe).path(trained_step(folder, recipe))


def checkpoint_is_whole(folder: RunFolder, recipe: Recipe) -> bool:
    """Whether the checkpoint that a round's training ended with is there, unchanged."""
    return checkpoints_of(folder, recipe).is_whole(trained_step(folder, recipe))


def is_whole(folder: RunFolder, recipe: Recipe) -> bool:
    """Whether the model that a round ended with is there, unchanged."""
    if writes_model(recipe):
        return (folder.model / "config.json").is_file()
    return checkpoint_is_whole(folder, recipe)


def trained_model(run: RunFolder, recipe: Recipe) -> Path:
    """Return the folder of a run's trained model, whole and unchanged.

    Raises:
        MulliganError: training has not ended, or its checkpoint is missing or damaged.
    """
    if "train" not in stages_done(run):
        raise MulliganError(
            f"{run.path} is still in training: it has no trained model yet. "
            f"Let it finish: `mulligan train {run.path}`."
        )
    folder = last_round(run, recipe)
    path = ended_with(folder, recipe)
    if not path.is_dir():
        raise MulliganError(
            f"{path} is missing, which is the trained model. "
            f"Train its steps again: `mulligan evaluate {run.path}`."
        )
    if path != folder.model:
        with waiting(f"checking {path}"):
            verify(path)
    return path
