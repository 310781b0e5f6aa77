"""The model that a finished training left, for commands that take it further."""

from pathlib import Path

from mulligan.config import Recipe
from mulligan.errors import MulliganError
from mulligan.run.session import stages_done
from mulligan.storage.checkpoint import Checkpoints, verify
from mulligan.storage.run_folder import RunFolder


def trained_step(checkpoints: Checkpoints, recipe: Recipe) -> int:
    """Return the step whose weights are the trained model: the best on dev, else the last."""
    best = checkpoints.best() if recipe.evaluate.every is not None else None
    return recipe.train.steps if best is None else best


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
    checkpoints = Checkpoints(run.checkpoints, recipe.train.keep_checkpoints)
    path = checkpoints.path(trained_step(checkpoints, recipe))
    if not path.is_dir():
        raise MulliganError(
            f"{path} is missing, which is the trained model. "
            f"Train its steps again: `mulligan evaluate {run.path}`."
        )
    verify(path)
    return path
