"""The trained model as a folder that transformers and vLLM load."""

import json
import shutil
from pathlib import Path

from mulligan.config import Dtype, Recipe
from mulligan.errors import MulliganError
from mulligan.models.load import ADAPTER_CONFIG, load_model, resolve_model
from mulligan.run.session import first_model
from mulligan.run.trained import trained_model, writes_model
from mulligan.storage.atomic import whole_folder
from mulligan.storage.checkpoint import Checkpoints
from mulligan.storage.run_folder import RunFolder


def trained_checkpoint(run: RunFolder, recipe: Recipe) -> Path:
    """Return the run's best checkpoint, or its newest where none is marked.

    A run that is consolidated, or has several rounds, has a trained model once it has ended.

    Raises:
        MulliganError: there is none yet.
    """
    if recipe.rounds > 1 or recipe.consolidate is not None:
        return trained_model(run, recipe)
    checkpoints = Checkpoints(run.checkpoints, recipe.train.keep_checkpoints)
    best = checkpoints.best()
    if best is None and (steps := checkpoints.steps()):
        best = steps[-1]
    if best is None:
        raise MulliganError(f"{run.path} has no trained model yet: run `mulligan train` first.")
    return checkpoints.path(best)


def export_model(
    run: RunFolder, recipe: Recipe, target: Path, *, merge: bool, dtype: Dtype | None
) -> Path:
    """Write the trained model, or the adapter that was trained, into a new folder.

    Args:
        run: the run that trained it.
        recipe: of the run.
        target: the folder, which must not exist.
        merge: for a LoRA run: write the whole model with the adapter merged in.
        dtype: of the weights; those of the checkpoint by default.

    Returns:
        The checkpoint that it was made from.

    Raises:
        MulliganError: the run has no checkpoint, the folder exists, or ``dtype`` is given for an
            adapter that is not merged.
    """
    if target.exists():
        raise MulliganError(f"{target} exists already. Give a folder that does not.")
    checkpoint = trained_checkpoint(run, recipe)
    base = first_model(run, recipe)
    if recipe.lora is not None and not merge:
        if dtype is not None:
            raise MulliganError("An adapter is exported as it was trained: give --merge too.")
        if recipe.sft:
            raise MulliganError(
                "This adapter belongs to the warmed-up model of its run, which nobody else has. "
                "Give --merge to export the whole model."
            )
        if writes_model(recipe):
            raise MulliganError(
                "This run trained adapters one after another, each on what the one before left. "
                "Give --merge to export the whole model."
            )
        _copy_adapter(checkpoint, target, resolve_model(base))
        return checkpoint
    wanted = dtype or ("float32" if recipe.lora is None else recipe.dtype)
    with whole_folder(target) as folder:
        write_merged(checkpoint, base, wanted, folder)
    return checkpoint


def write_merged(checkpoint: Path, base: str, dtype: Dtype, folder: Path) -> None:
    """Write a checkpoint's model and tokenizer into a folder, an adapter merged into its base."""
    model, tokenizer = load_model(str(checkpoint), dtype, "cpu", base=base)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def name_base(folder: Path, base: str) -> None:
    """Let the adapter in a folder name its base."""
    config = json.loads((folder / ADAPTER_CONFIG).read_bytes())
    named = json.dumps(config | {"base_model_name_or_path": base}, indent=2)
    (folder / ADAPTER_CONFIG).write_text(named + "\n", encoding="utf-8")


def _copy_adapter(checkpoint: Path, target: Path, base: str) -> None:
    """Copy an adapter and its tokenizer, and name its base."""
    leave = {"training_state.safetensors", "training_state.json", "manifest.json"}
    with whole_folder(target) as folder:
        for file in checkpoint.iterdir():
            if file.is_file() and file.name not in leave:
                shutil.copyfile(file, folder / file.name)
        name_base(folder, base)
